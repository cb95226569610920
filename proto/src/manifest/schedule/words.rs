//! A schedule in words. They are always true; where there are no short ones, they are long.

use super::field::{DAY, HOUR, MINUTE, MONTH};
use super::next::Times;

const WEEKDAYS: [&str; 7] = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"];
pub(super) const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];
/// So many numbers are written out where they could be counted off.
const WRITTEN: usize = 6;
/// So many times of a day are.
const TIMES: usize = 4;

/// `at 03:30 from Monday to Friday`.
pub(super) fn words(times: &Times) -> String {
    let (clock, of_a_day) = clock(times);
    let date = date(times);
    match date.as_str() {
        "" if of_a_day => format!("{clock} every day"),
        "" => clock,
        date if of_a_day && date.starts_with("in ") => format!("{clock} every day {date}"),
        date => format!("{clock} {date}"),
    }
}

/// When on a day that is of the schedule; and whether that leaves open on which.
fn clock(times: &Times) -> (String, bool) {
    let (minutes, hours) = (values(times.minutes), values(times.hours));
    let (every_hour, together) = (hours.len() == 24, run(&hours));
    let often = match divisor(&minutes, 60) {
        Some(1) => Some("every minute".to_owned()),
        Some(step) => Some(format!("every {step} minutes")),
        None => None,
    };
    let least = minutes.first().copied().unwrap_or_default();
    let most = minutes.last().copied().unwrap_or_default();
    let named = || numbers("minute", &minutes);
    let of_hours = || numbers("hour", &hours);
    let text = match (often, together, minutes.as_slice()) {
        (Some(often), ..) if every_hour => often,
        (Some(often), Some((first, last)), _) => format!("{often} from {first:02}:00 to {last:02}:{most:02}"),
        (Some(often), None, _) => format!("{often} of {}", of_hours()),
        (None, _, [0]) if every_hour => "every hour".to_owned(),
        (None, ..) if every_hour => format!("at {} of every hour", named()),
        (None, ..) if minutes.len() * hours.len() <= TIMES => {
            let times = hours.iter().flat_map(|hour| minutes.iter().map(move |minute| (hour, minute)));
            let times: Vec<String> = times.map(|(hour, minute)| format!("{hour:02}:{minute:02}")).collect();
            return (format!("at {}", list(&times)), true);
        }
        (None, Some((first, last)), [_]) => {
            format!("every hour from {first:02}:{least:02} to {last:02}:{least:02}")
        }
        (None, None, [_]) => match divisor(&hours, 24) {
            Some(step) if least == 0 => format!("every {step} hours"),
            Some(step) => format!("every {step} hours from 00:{least:02}"),
            None => format!("at {} of {}", named(), of_hours()),
        },
        (None, ..) => format!("at {} of {}", named(), of_hours()),
    };
    (text, false)
}

/// On which days; empty where it is every one.
fn date(times: &Times) -> String {
    let days = values(times.days);
    let every_day = days.len() == usize::from(DAY.most);
    // As people count them: Sunday is the last of a week.
    let weekdays: Vec<u8> = (1..=7).filter(|day| times.weekdays & (1 << (day % 7)) != 0).collect();
    let every_weekday = weekdays.len() == WEEKDAYS.len();
    let months = values(times.months);
    let every_month = months.len() == usize::from(MONTH.most);
    let named = |prefix: &str| match (every_month, run(&months)) {
        (true, _) => String::new(),
        (false, Some((first, last))) if first + 1 < last => {
            format!("{prefix} each month from {} to {}", name(&MONTHS, first), name(&MONTHS, last))
        }
        (false, _) => format!("{prefix} {}", names(&MONTHS, &months)),
    };
    let on_weekdays = || match run(&weekdays) {
        Some((first, last)) if first + 1 < last => {
            format!("from {} to {}", name(&WEEKDAYS, first), name(&WEEKDAYS, last))
        }
        _ => format!("on {}", names(&WEEKDAYS, &weekdays)),
    };
    let on_days = || format!("on {}", numbers("day", &days));
    let either = !times.both_days;
    match (every_day, every_weekday) {
        (true, true) => named("in"),
        (true, false) | (false, true) if either => named("in"),
        (true, false) => format!("{} {}", on_weekdays(), named("in")).trim_end().to_owned(),
        (false, true) => match (days.as_slice(), months.as_slice()) {
            (_, _) if every_month => format!("{} of the month", on_days()),
            ([day], [month]) => format!("on {day} {}", name(&MONTHS, *month)),
            _ => format!("{} {}", on_days(), named("of")),
        },
        (false, false) => {
            let both = format!("{} of the month, and also {}", on_days(), on_weekdays());
            if every_month { both } else { format!("{both}, {}", named("in")) }
        }
    }
}

fn values(bits: u64) -> Vec<u8> {
    (0..64).filter(|value| bits & (1 << value) != 0).collect()
}

/// The first and the last, where none between them is missing.
fn run(values: &[u8]) -> Option<(u8, u8)> {
    let (first, last) = (*values.first()?, *values.last()?);
    (usize::from(last - first) + 1 == values.len()).then_some((first, last))
}

/// How far they are apart, where they go round the whole evenly from 0.
fn divisor(values: &[u8], whole: u8) -> Option<u8> {
    let step = whole / u8::try_from(values.len()).ok().filter(|count| *count > 0)?;
    let even = step < whole && whole.is_multiple_of(step);
    (even && values.iter().copied().eq((0..whole).step_by(usize::from(step)))).then_some(step)
}

/// `minute 5`, `minutes 5 to 9 and 30`, `every 7th minute from 0 to 56`.
fn numbers(unit: &str, values: &[u8]) -> String {
    let mut runs: Vec<(u8, u8)> = Vec::new();
    for value in values {
        match runs.last_mut() {
            Some((_, last)) if *last + 1 == *value => *last = *value,
            _ => runs.push((*value, *value)),
        }
    }
    let texts = runs.iter().flat_map(|(first, last)| match last - first {
        0 => vec![first.to_string()],
        1 => vec![first.to_string(), last.to_string()],
        _ => vec![format!("{first} to {last}")],
    });
    let texts: Vec<String> = texts.collect();
    match (values, step(values)) {
        ([value], _) => format!("{unit} {value}"),
        ([first, .., last], Some(step)) if texts.len() > WRITTEN => {
            format!("every {} {unit} from {first} to {last}", ordinal(step))
        }
        _ => format!("{unit}s {}", list(&texts)),
    }
}

/// How far they are apart, where that is the same for all.
fn step(values: &[u8]) -> Option<u8> {
    let mut steps = values.windows(2).map(|pair| pair.iter().copied().reduce(|one, next| next - one));
    let step = steps.next()??;
    steps.all(|other| other == Some(step)).then_some(step)
}

fn ordinal(number: u8) -> String {
    let ending = match (number % 10, number / 10) {
        (_, 1) => "th",
        (1, _) => "st",
        (2, _) => "nd",
        (3, _) => "rd",
        _ => "th",
    };
    format!("{number}{ending}")
}

/// The name of the Nth, counted from 1.
fn name(names: &[&'static str], number: u8) -> &'static str {
    names.get(usize::from(number).wrapping_sub(1)).copied().unwrap_or_default()
}

fn names(all: &[&'static str], numbers: &[u8]) -> String {
    let named: Vec<String> = numbers.iter().map(|number| name(all, *number).to_owned()).collect();
    list(&named)
}

/// `a, b and c`.
fn list(items: &[String]) -> String {
    match items {
        [] => String::new(),
        [only] => only.clone(),
        [most @ .., last] => format!("{} and {last}", most.join(", ")),
    }
}

const _: () = assert!(MINUTE.most == 59 && HOUR.most == 23, "what goes round evenly is counted in these");

#[cfg(test)]
mod tests {
    use crate::manifest::Schedule;

    #[track_caller]
    fn check(expression: &str, expected: &str) {
        assert_eq!(Schedule::parse(expression).unwrap().words(), expected, "{expression}");
    }

    #[test]
    fn the_usual_ones_read_as_people_say_them() {
        check("* * * * *", "every minute");
        check("*/15 * * * *", "every 15 minutes");
        check("0,30 * * * *", "every 30 minutes");
        check("0 * * * *", "every hour");
        check("@hourly", "every hour");
        check("15 * * * *", "at minute 15 of every hour");
        check("5,35 * * * *", "at minutes 5 and 35 of every hour");
        check("0 */2 * * *", "every 2 hours");
        check("15 */6 * * *", "at 00:15, 06:15, 12:15 and 18:15 every day");
        check("15 */3 * * *", "every 3 hours from 00:15");
        check("30 3 * * *", "at 03:30 every day");
        check("@daily", "at 00:00 every day");
        check("30 3 * * MON-FRI", "at 03:30 from Monday to Friday");
        check("30 3,15 * * sat,sun", "at 03:30 and 15:30 on Saturday and Sunday");
        check("0 0 * * 5-7", "at 00:00 from Friday to Sunday");
        check("@weekly", "at 00:00 on Sunday");
        check("@monthly", "at 00:00 on day 1 of the month");
        check("@yearly", "at 00:00 on 1 January");
        check("0 0 29 2 *", "at 00:00 on 29 February");
        check("0 8-18 * * 1-5", "every hour from 08:00 to 18:00 from Monday to Friday");
        check("*/10 8-17 * * *", "every 10 minutes from 08:00 to 17:50");
        check("* 3 * * *", "every minute from 03:00 to 03:59");
        check("0 6 * JUN-AUG *", "at 06:00 every day in each month from June to August");
        check("0 6 1,15 */3 *", "at 06:00 on days 1 and 15 of January, April, July and October");
    }

    #[test]
    fn odd_ones_are_true_all_the_same() {
        check("*/7 * * * *", "at every 7th minute from 0 to 56 of every hour");
        check("1-59/2 */2 * * *", "at every 2nd minute from 1 to 59 of every 2nd hour from 0 to 22");
        check("*/5 */2 * * *", "every 5 minutes of every 2nd hour from 0 to 22");
        check("0 0 1-31/3 * *", "at 00:00 on every 3rd day from 1 to 31 of the month");
        check("0 0 1-31/2 * MON", "at 00:00 on every 2nd day from 1 to 31 of the month, and also on Monday");
        check("0 0 2-20/2 5 *", "at 00:00 on every 2nd day from 2 to 20 of May");
        check("1,3,4,9,11,17,20,22,50 * * * *", "at minutes 1, 3, 4, 9, 11, 17, 20, 22 and 50 of every hour");
        check("*/5 0,12 * * *", "every 5 minutes of hours 0 and 12");
        check("0 0 13 * FRI", "at 00:00 on day 13 of the month, and also on Friday");
        check("0 0 13 5 FRI", "at 00:00 on day 13 of the month, and also on Friday, in May");
        check("0 0 1-31 * MON", "at 00:00 every day");
        check("0 0 1-7,15 * *", "at 00:00 on days 1 to 7 and 15 of the month");
        check("0 0 */2 * *", "at 00:00 on every 2nd day from 1 to 31 of the month");
        check("0 0 1 5-9 *", "at 00:00 on day 1 of each month from May to September");
        check("0 9 * 3,6 MON", "at 09:00 on Monday in March and June");
        check("0,1,2,30 4,5 * * *", "at minutes 0 to 2 and 30 of hours 4 and 5");
    }
}

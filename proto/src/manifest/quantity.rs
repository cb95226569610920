//! Amounts of CPU, of bytes and of percent, as people and Kubernetes write them.
//!
//! * Each keeps its text, which is always a valid Kubernetes quantity, and is compared by what it amounts to.
//! * What is probably a slip (`512m` of memory is half a byte) is refused with what was probably meant.

use super::text::{Refusal, text_type};
use std::cmp::Ordering;
use std::fmt;

/// The most CPU of one instance, in thousandths.
const MAX_MILLICORES: u64 = 1_000_000;
/// The least memory or disk: less is a slip of the unit.
const MIN_BYTES: u64 = 1 << 20;
/// The most memory or disk.
const MAX_BYTES: u64 = 1 << 50;
/// Digits beyond these mean nothing, and would not fit.
const MAX_DIGITS: usize = 18;

/// An amount of CPU: `500m`, `0.5`, `2`.
#[derive(Clone)]
pub struct CpuQuantity {
    text: String,
    millicores: u64,
}

/// An amount of memory or disk: `256Mi`, `1Gi`, `512M`.
#[derive(Clone)]
pub struct MemoryQuantity {
    text: String,
    bytes: u64,
}

/// A share of what is asked for, from `1%` to `100%`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Percent(u8);

impl CpuQuantity {
    /// Thousandths of a CPU.
    pub fn millicores(&self) -> u64 {
        self.millicores
    }

    pub fn as_str(&self) -> &str {
        &self.text
    }

    pub fn parse(text: &str) -> Result<Self, Refusal> {
        let example = "write CPUs such as `0.5` or thousandths of one such as `500m`";
        let wrong =
            |hint: Option<String>| Refusal::new("is no amount of CPU").or_hint(hint, example).about(text);
        if text.starts_with('-') {
            return Err(Refusal::new("is less than nothing").with_hint(example).about(text));
        }
        let (number, factor) = match text.strip_suffix('m') {
            Some(number) => (number, 1),
            None => (text, 1000),
        };
        let Some(decimal) = Decimal::parse(number) else {
            let percent = text.strip_suffix('%').and_then(Decimal::parse).and_then(|number| number.times(10));
            let written = text.trim_end_matches(|c: char| c.is_ascii_alphabetic() || c == ' ');
            let meant = match percent {
                Some(millicores) => Some(format!("{millicores}m")),
                // `500 m` and `2 CPUs`, but not `5e3` or `1Gi`, of which nothing can be guessed.
                None => Some(written)
                    .filter(|_| !text.ends_with(['i', 'k', 'M', 'G', 'T', 'u', 'n']))
                    .map(|number| format!("{number}{}", if factor == 1 { "m" } else { "" })),
            };
            return Err(wrong(meant.filter(|meant| guessed(meant).is_some()).map(did_you_mean)));
        };
        match decimal.times(factor) {
            None => {
                let refusal = Refusal::new("is finer than a thousandth of a CPU");
                Err(refusal.with_hint("the least is `1m`").about(text))
            }
            Some(0) => Err(Refusal::new("is no CPU at all").with_hint("the least is `1m`").about(text)),
            Some(millicores) if millicores > MAX_MILLICORES => {
                let hint = (factor == 1000).then(|| format!("{number}m"));
                let hint = hint.filter(|meant| guessed(meant).is_some()).map(did_you_mean);
                Err(Refusal::new("is more than 1000 CPUs").or_hint(hint, example).about(text))
            }
            Some(millicores) => Ok(CpuQuantity { text: text.to_owned(), millicores }),
        }
    }
}

impl MemoryQuantity {
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    pub fn as_str(&self) -> &str {
        &self.text
    }

    pub fn parse(text: &str) -> Result<Self, Refusal> {
        let unit_at = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
        let (number, unit) = text.split_at_checked(unit_at).unwrap_or((text, ""));
        let example = "write a number and a unit, such as `512Mi` or `1Gi`";
        if text.starts_with('-') {
            return Err(Refusal::new("is less than nothing").with_hint(example).about(text));
        }
        let Some(decimal) = Decimal::parse(number) else {
            return Err(Refusal::new("is no amount of bytes").with_hint(example).about(text));
        };
        let Some(factor) = factor(unit) else {
            return Err(without_unit(text, number, unit).about(text));
        };
        // Kubernetes rounds up to whole bytes.
        let bytes = decimal.times_rounded_up(factor);
        if bytes == Some(0) {
            return Err(Refusal::new("is nothing at all").with_hint(example).about(text));
        }
        match bytes {
            Some(bytes) if bytes < MIN_BYTES => {
                Err(Refusal::new("is less than `1Mi`").or_hint(larger(number, unit), example).about(text))
            }
            Some(bytes) if bytes <= MAX_BYTES => {
                // Kubernetes knows the small letter only.
                let unit = if unit == "K" { "k" } else { unit };
                Ok(MemoryQuantity { text: format!("{number}{unit}"), bytes })
            }
            _ => Err(Refusal::new("is more than `1024Ti`").about(text)),
        }
    }
}

impl Percent {
    pub fn get(self) -> u8 {
        self.0
    }

    pub fn parse(text: &str) -> Result<Self, Refusal> {
        let number = text.strip_suffix('%');
        let digits = number.unwrap_or(text);
        let plain =
            !digits.is_empty() && digits.len() <= 3 && digits.bytes().all(|byte| byte.is_ascii_digit());
        let value = digits.parse::<u8>().ok().filter(|value| plain && (1..=100).contains(value));
        match (value, number) {
            (Some(value), Some(_)) => Ok(Percent(value)),
            (Some(value), None) => {
                let refusal = Refusal::new("has no `%` behind it");
                Err(refusal.with_hint(did_you_mean(format!("{value}%"))).about(text))
            }
            (None, _) => {
                let hint = "write a share from `1%` to `100%`, such as `70%`";
                Err(Refusal::new("is no percentage").with_hint(hint).about(text))
            }
        }
    }
}

/// Whether a guess would have been right. Apart from `parse`, which guesses: a guess at a guess would never end.
fn guessed(text: &str) -> Option<u64> {
    let (number, factor) = text.strip_suffix('m').map_or((text, 1000), |number| (number, 1));
    Decimal::parse(number)?.times(factor).filter(|value| (1..=MAX_MILLICORES).contains(value))
}

/// Bytes per unit.
fn factor(unit: &str) -> Option<u64> {
    Some(match unit {
        "Ki" => 1 << 10,
        "Mi" => 1 << 20,
        "Gi" => 1 << 30,
        "Ti" => 1 << 40,
        "k" | "K" => 1_000,
        "M" => 1_000_000,
        "G" => 1_000_000_000,
        "T" => 1_000_000_000_000,
        _ => return None,
    })
}

/// What to say about an amount of which the unit is missing or unknown.
fn without_unit(text: &str, number: &str, unit: &str) -> Refusal {
    let letters = unit.trim();
    if letters.is_empty() {
        let refusal = Refusal::new("has no unit");
        let plain = number.parse::<u64>().ok().filter(|number| *number > 0);
        return match plain {
            Some(bytes) if bytes >= MIN_BYTES && bytes % MIN_BYTES == 0 => {
                refusal.with_hint(did_you_mean(format!("{}Mi", bytes / MIN_BYTES)))
            }
            Some(bytes) if bytes >= MIN_BYTES => refusal.with_hint("write it in `Mi`, such as `512Mi`"),
            _ => refusal.with_hint(format!("did you mean `{number}Mi` or `{number}M`?")),
        };
    }
    let refusal = match letters {
        "m" => Refusal::new("is in thousandths of a byte"),
        _ => Refusal::new("has a unit that does not exist"),
    };
    let mut known = letters.chars();
    let first = known.next().map(|c| c.to_ascii_uppercase()).filter(|c| "KMGT".contains(*c));
    let binary = known.as_str().to_ascii_lowercase();
    match (first, binary.as_str()) {
        (Some(first), "" | "b") if text.len() < 40 => {
            refusal.with_hint(format!("did you mean `{number}{first}` or `{number}{first}i`?"))
        }
        (Some(first), "i" | "ib") if text.len() < 40 => {
            refusal.with_hint(did_you_mean(format!("{number}{first}i")))
        }
        _ => refusal.with_hint("the units are `Ki`, `Mi`, `Gi`, `Ti`, and in thousands `k`, `M`, `G`, `T`"),
    }
}

/// `512Mi` for `512Ki`.
fn larger(number: &str, unit: &str) -> Option<String> {
    let meant = match unit {
        "Ki" => format!("{number}Mi"),
        "k" | "K" => format!("{number}M"),
        _ => return None,
    };
    MemoryQuantity::parse(&meant).is_ok().then(|| did_you_mean(meant))
}

fn did_you_mean(text: String) -> String {
    format!("did you mean `{text}`?")
}

/// A decimal number without a sign: its digits, and how many of them stand behind the point.
struct Decimal {
    digits: u64,
    places: u32,
}

impl Decimal {
    fn parse(text: &str) -> Option<Decimal> {
        let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
        let digits = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
        if !digits(whole) || !digits(fraction) || whole.len() + fraction.len() > MAX_DIGITS {
            return None;
        }
        let places = u32::try_from(fraction.len()).ok()?;
        Some(Decimal { digits: format!("{whole}{fraction}").parse().ok()?, places })
    }

    /// The product, if it is whole.
    fn times(&self, factor: u64) -> Option<u64> {
        let product = u128::from(self.digits) * u128::from(factor);
        let divisor = 10u128.pow(self.places);
        (product % divisor == 0).then(|| u64::try_from(product / divisor).unwrap_or(u64::MAX))
    }

    fn times_rounded_up(&self, factor: u64) -> Option<u64> {
        let product = u128::from(self.digits) * u128::from(factor);
        u64::try_from(product.div_ceil(10u128.pow(self.places))).ok()
    }
}

macro_rules! compared_by_value {
    ($name:ident, $value:ident) => {
        impl PartialEq for $name {
            fn eq(&self, other: &Self) -> bool {
                self.$value == other.$value
            }
        }
        impl Eq for $name {}
        impl PartialOrd for $name {
            fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
                Some(self.cmp(other))
            }
        }
        impl Ord for $name {
            fn cmp(&self, other: &Self) -> Ordering {
                self.$value.cmp(&other.$value)
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.text)
            }
        }
    };
}
compared_by_value!(CpuQuantity, millicores);
compared_by_value!(MemoryQuantity, bytes);

impl fmt::Display for Percent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}%", self.0)
    }
}

text_type!(CpuQuantity, {
    "type": "string", "maxLength": 20, "pattern": "^([0-9]+(\\.[0-9]+)?|[0-9]+m)$",
    "description": "An amount of CPU: `0.5`, `2`, or in thousandths `500m`.", "examples": ["500m", "0.5", "2"]
});
text_type!(MemoryQuantity, {
    "type": "string", "maxLength": 21, "pattern": "^[0-9]+(\\.[0-9]+)?(Ki|Mi|Gi|Ti|k|K|M|G|T)$",
    "description": "An amount of memory or disk, with its unit.", "examples": ["256Mi", "1Gi", "512M"]
});
text_type!(Percent, {
    "type": "string", "maxLength": 4, "pattern": "^([1-9][0-9]?|100)%$",
    "description": "A share from `1%` to `100%`.", "examples": ["70%"]
});

//! Sealing, stored size, substring search and a window out of a day, on the store's sealed files alone.

use crate::input::{Random, message};
use crate::measure::{Spent, median, own, shell};
use anyhow::Context as _;
use skpr_aggregator::environment::EnvironmentKey;
use skpr_aggregator::record::Filter;
use skpr_aggregator::store::segment::{self, Range, Row, SegmentFile};
use skpr_proto::v1::RecordKind;
use skpr_proto::{EnvironmentName, Label, UnixNanos};
use skpr_tests::report::{Better, Figure};
use std::io::{BufWriter, Write as _};
use std::path::Path;
use std::time::Instant;

const HOUR_NANOS: i64 = 3_600_000_000_000;
/// 2026-11-22T00:00:00Z
const DAY_START: i64 = 1_795_305_600 * 1_000_000_000;
const RUNS: usize = 3;

/// A day of one environment: the rows of each hour in one buffer.
struct Hour {
    text: Vec<u8>,
    rows: Vec<(i64, usize, u8, bool)>,
}

fn hour(number: i64, bytes: usize) -> anyhow::Result<Hour> {
    let mut random = Random::new(7 + number as u64);
    let mut hour = Hour { text: Vec::with_capacity(bytes + 512), rows: Vec::new() };
    while hour.text.len() < bytes {
        let stderr = message(&mut random, &mut hour.text)?;
        hour.rows.push((0, hour.text.len(), random.below(8) as u8, stderr));
    }
    // Requests come when they like: even distances would compress better than real ones.
    let mut times: Vec<i64> = hour.rows.iter().map(|_| random.below(HOUR_NANOS as u64) as i64).collect();
    times.sort_unstable();
    for (row, time) in hour.rows.iter_mut().zip(times) {
        row.0 = DAY_START + number * HOUR_NANOS + time;
    }
    Ok(hour)
}

const INSTANCES: [&str; 8] = ["web-0", "web-1", "web-2", "web-3", "web-4", "web-5", "web-6", "web-7"];

fn rows(hour: &Hour, first_sequence: u64) -> impl Iterator<Item = Row<'_>> {
    let mut start = 0;
    hour.rows.iter().zip(first_sequence..).map(move |(&(time, end, instance, stderr), sequence)| {
        let message = hour.text.get(start..end).unwrap_or_default();
        start = end;
        Row {
            order_time: UnixNanos(time),
            time: UnixNanos(time),
            sequence,
            instance: INSTANCES.get(usize::from(instance)).copied().unwrap_or("web-0"),
            stream: if stderr { "stderr" } else { "stdout" },
            kind: RecordKind::Line,
            message,
        }
    })
}

pub(crate) fn run(work: &Path, bytes: usize, figures: &mut Vec<Figure>) -> anyhow::Result<()> {
    let key = EnvironmentKey {
        namespace: Label::parse("namespace", "bench")?,
        name: EnvironmentName::parse("bench", "prod")?,
    };
    let root = work.join("sealed");
    std::fs::create_dir_all(&root)?;
    let text_file = work.join("day.log");
    let mut text = BufWriter::new(std::fs::File::create(&text_file)?);
    let on_node =
        |instance: &&str| std::fs::File::create(work.join(format!("{instance}.cri"))).map(BufWriter::new);
    let mut node = INSTANCES.iter().map(on_node).collect::<Result<Vec<_>, _>>()?;
    let mut files = Vec::new();
    let mut sequence = 1;
    let (mut raw, mut cpu) = (0usize, 0.0);
    for number in 0..24 {
        let hour = hour(number, bytes / 24)?;
        let mut start = 0;
        for &(time, end, instance, stderr) in &hour.rows {
            let message = hour.text.get(start..end).unwrap_or_default();
            text.write_all(message)?;
            text.write_all(b"\n")?;
            let file = node.get_mut(usize::from(instance)).context("an instance without a file")?;
            crate::input::cri_header(time, stderr, file)?;
            file.write_all(message)?;
            file.write_all(b"\n")?;
            start = end;
        }
        let when = segment::Hour::of(UnixNanos(DAY_START + number * HOUR_NANOS));
        let (file, spent) =
            own(|| segment::write(&root, &key, when, rows(&hour, sequence)).context("seal an hour"))?;
        sequence += hour.rows.len() as u64;
        raw += hour.text.len();
        cpu += spent.cpu;
        files.push(file);
    }
    text.flush()?;
    node.iter_mut().try_for_each(BufWriter::flush)?;
    drop((text, node));
    figures
        .push(Figure::new("seal", raw as f64 / 1e6 / cpu, "MB raw per CPU-s", Better::Higher).target(100.0));

    let stored: u64 = files.iter().map(|file| file.bytes).sum();
    let path = text_file.display();
    shell(&format!("zstd -q -f -3 -k {path} -o {path}.zst"))?;
    let packed = std::fs::metadata(work.join("day.log.zst"))?.len();
    let (cri, _) = shell(&format!("for f in {}/*.cri; do zstd -q -3 -c $f; done | wc -c", work.display()))?;
    let cri: f64 = cri.parse().context("parse the compressed size")?;
    // What is stored is what the node has: time, stream and message, and whose they are by the file's name.
    figures.push(
        Figure::new("stored size", stored as f64 / 1e6, "MB", Better::Lower)
            .against("zstd -3 of the node's files", cri / 1e6)
            .target_ratio(1.0),
    );
    figures.push(
        Figure::new("stored size", stored as f64 / 1e6, "MB", Better::Lower)
            .against("zstd -3 of the messages alone", packed as f64 / 1e6),
    );
    search(&root, &files, &format!("{path}.zst"), figures)?;
    window(&root, &files, figures)
}

fn search(root: &Path, files: &[SegmentFile], packed: &str, figures: &mut Vec<Figure>) -> anyhow::Result<()> {
    for needle in ["PHP Fatal error", "trace\":\"00f"] {
        let filter =
            Filter { grep: vec![regex::bytes::Regex::new(&regex::escape(needle))?], ..Filter::default() };
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        for _ in 0..RUNS {
            let (found, spent) =
                own(|| Ok(segment::count_files(root, files, &Range::default(), &filter, 2)?))?;
            ours.push(spent);
            let (printed, spent) = shell(&format!("zstdcat {packed} | LC_ALL=C grep -c -F '{needle}'"))?;
            theirs.push(spent);
            anyhow::ensure!(printed == found.to_string(), "`{needle}`: {found} here, {printed} by grep");
        }
        let (ours, theirs): (Spent, Spent) = (median(ours), median(theirs));
        figures.push(
            Figure::new(format!("count `{needle}`, wall"), ours.wall, "s", Better::Lower)
                .against("zstdcat|grep", theirs.wall)
                .target_ratio(0.5),
        );
        figures.push(
            Figure::new(format!("count `{needle}`, CPU"), ours.cpu, "CPU-s", Better::Lower)
                .against("zstdcat|grep", theirs.cpu)
                .target_ratio(0.5),
        );
    }
    Ok(())
}

fn window(root: &Path, files: &[SegmentFile], figures: &mut Vec<Figure>) -> anyhow::Result<()> {
    let (mut firsts, mut alls) = (Vec::new(), Vec::new());
    for hour in [3, 9, 15, 18, 22] {
        let since = DAY_START + hour * HOUR_NANOS + HOUR_NANOS / 2;
        let range = Range {
            since: Some(UnixNanos(since)),
            until: Some(UnixNanos(since + HOUR_NANOS / 6)),
            ..Range::default()
        };
        let start = Instant::now();
        let mut first = None;
        let mut bytes = 0;
        for file in
            files.iter().filter(|file| file.max_time.0 >= since && file.min_time.0 < since + HOUR_NANOS / 6)
        {
            for records in segment::scan(root, file, &range, &Filter::default())? {
                let records = records?;
                first.get_or_insert_with(|| start.elapsed());
                bytes += records.iter().map(|scanned| scanned.record.message.len()).sum::<usize>();
            }
        }
        anyhow::ensure!(bytes > 0, "an empty window");
        alls.push(start.elapsed().as_secs_f64() * 1e3);
        firsts.push(first.context("a first line")?.as_secs_f64() * 1e3);
    }
    firsts.sort_by(f64::total_cmp);
    alls.sort_by(f64::total_cmp);
    let middle = |values: &[f64]| crate::measure::percentile(values, 0.5);
    figures.push(
        Figure::new("10 min of a day, first line (store)", middle(&firsts), "ms", Better::Lower).target(25.0),
    );
    figures
        .push(Figure::new("10 min of a day, all (store)", middle(&alls), "ms", Better::Lower).target(60.0));
    Ok(())
}

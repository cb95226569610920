//! What goes in, and what comes out of what is kept.

use super::*;
use proptest::prelude::*;

fn bytes(length: usize, seed: u8) -> Bytes {
    (0..length).map(|at| (at as u8).wrapping_mul(31).wrapping_add(seed)).collect::<Vec<_>>().into()
}

#[tokio::test]
async fn what_nobody_reads_goes_to_a_file_without_a_name_and_comes_back_whole() {
    let directory = tempfile::tempdir().unwrap();
    let space = Space::new(directory.path().to_owned());
    let (mut filler, mut drain) = pair(&space);
    let chunk = bytes(32 << 10, 7);
    for _ in 0..1024 {
        filler.push(chunk.clone()).await.unwrap();
    }
    filler.end();
    assert!(filler.0.lock().in_memory <= IN_MEMORY);
    let in_files = IN_FILES - space.0.left.load(Ordering::Relaxed);
    assert!((27 << 20..28 << 20).contains(&in_files), "{in_files}");
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
    let (mut expected, mut got) = (Vec::new(), Vec::new());
    (0..1024).for_each(|_| expected.extend_from_slice(&chunk));
    while let Some(bytes) = drain.next().await.unwrap() {
        got.extend_from_slice(&bytes);
    }
    assert!(got == expected);
    assert_eq!(space.0.left.load(Ordering::Relaxed), IN_FILES);
}

#[tokio::test]
async fn a_channel_has_a_limit_and_so_have_all_together() {
    let directory = tempfile::tempdir().unwrap();
    let space = Space::of(directory.path().to_owned(), 3 << 20, 4 << 20);
    let fill = async |filler: &mut Filler| {
        for sent in 0.. {
            if let Err(full) = filler.push(bytes(1 << 20, 0)).await {
                return (sent, full.to_string());
            }
        }
        unreachable!("it is never full")
    };
    let (mut first, drain) = pair(&space);
    let (sent, why) = fill(&mut first).await;
    assert_eq!((sent, why.contains("3 MiB")), (7, true), "{why}");
    let (mut second, other) = pair(&space);
    let (sent, why) = fill(&mut second).await;
    assert_eq!((sent, why.contains("that there is for it")), (5, true), "{why}");
    // Whoever goes gives back what it had.
    assert!(space.0.memory.load(Ordering::Relaxed) < IN_MEMORIES);
    drop((first, drain));
    second.push(bytes(1 << 20, 0)).await.unwrap();
    drop((second, other));
    assert_eq!(space.0.memory.load(Ordering::Relaxed), IN_MEMORIES);
    assert_eq!(space.0.left.load(Ordering::Relaxed), 4 << 20);
}

#[tokio::test]
async fn where_all_memory_is_taken_bytes_go_into_files() {
    let directory = tempfile::tempdir().unwrap();
    let space = Space::new(directory.path().to_owned());
    assert!(space.take_memory(IN_MEMORIES as usize - 5 - EACH));
    let (mut filler, mut drain) = pair(&space);
    for part in [&b"12345"[..], b"678", b"9"] {
        filler.push(Bytes::from_static(part)).await.unwrap();
    }
    filler.end();
    assert_eq!(space.0.left.load(Ordering::Relaxed), IN_FILES - 4);
    let mut got = Vec::new();
    while let Some(bytes) = drain.next().await.unwrap() {
        got.extend_from_slice(&bytes);
    }
    assert_eq!(got, b"123456789");
    assert_eq!(space.0.memory.load(Ordering::Relaxed), 5 + EACH as u64);
}

#[tokio::test]
async fn what_comes_after_the_reader_has_gone_is_dropped() {
    let space = Space::new(PathBuf::from("/nowhere"));
    let (mut filler, drain) = pair(&space);
    drop(drain);
    for _ in 0..100 {
        filler.push(bytes(1 << 20, 0)).await.unwrap();
    }
    let (mut filler, _drain) = pair(&space);
    filler.push(bytes(IN_MEMORY - EACH, 0)).await.unwrap();
    assert!(matches!(filler.push(bytes(1, 0)).await, Err(Full::Disk(_))));
}

#[tokio::test]
async fn a_reader_that_is_behind_takes_as_much_as_passes() {
    let directory = tempfile::tempdir().unwrap();
    let space = Space::of(directory.path().to_owned(), 3 << 20, 4 << 20);
    let (mut filler, mut drain) = pair(&space);
    for seed in 0..5 {
        filler.push(bytes(1 << 20, seed)).await.unwrap();
    }
    // Never caught up, and forty times what may be unread.
    let (mut expected, mut got, mut seed) = (Vec::new(), Vec::new(), 5_u8);
    (0..5).for_each(|seed| expected.extend_from_slice(&bytes(1 << 20, seed)));
    while seed < 125 {
        got.extend_from_slice(&drain.next().await.unwrap().unwrap());
        if expected.len() - got.len() <= 2 << 20 {
            filler.push(bytes(1 << 20, seed)).await.unwrap();
            expected.extend_from_slice(&bytes(1 << 20, seed));
            seed += 1;
        }
    }
    filler.end();
    while let Some(bytes) = drain.next().await.unwrap() {
        got.extend_from_slice(&bytes);
    }
    assert!(got == expected);
    drop((filler, drain));
    assert_eq!(space.0.left.load(Ordering::Relaxed), 4 << 20);
}

#[tokio::test]
async fn bytes_that_come_one_by_one_cost_what_they_are_kept_in() {
    let directory = tempfile::tempdir().unwrap();
    let space = Space::new(directory.path().to_owned());
    let (mut filler, _drain) = pair(&space);
    for _ in 0..IN_MEMORY / EACH {
        filler.push(bytes(1, 0)).await.unwrap();
    }
    assert!(filler.0.lock().memory.len() <= IN_MEMORY / (EACH + 1));
    assert!(space.0.left.load(Ordering::Relaxed) < IN_FILES);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn bytes_come_out_as_they_came_in(steps in prop::collection::vec((any::<bool>(), 1_usize..2_000_000), 1..40)) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let directory = tempfile::tempdir().unwrap();
            let (mut filler, mut drain) = pair(&Space::new(directory.path().to_owned()));
            let (mut expected, mut got) = (Vec::new(), Vec::new());
            for (seed, (push, length)) in steps.into_iter().enumerate() {
                if push || got.len() == expected.len() {
                    let sent = bytes(length, seed as u8);
                    expected.extend_from_slice(&sent);
                    filler.push(sent).await.unwrap();
                } else {
                    got.extend_from_slice(&drain.next().await.unwrap().unwrap());
                }
            }
            filler.end();
            while let Some(bytes) = drain.next().await.unwrap() {
                got.extend_from_slice(&bytes);
            }
            assert!(got == expected);
        });
    }
}

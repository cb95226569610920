//! A search against what it has to find: the new file, made of the base and itself.

use super::*;
use crate::signature::Shape;
use proptest::prelude::*;
use std::time::{Duration, Instant};

fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

fn index(base: &[u8], block: u32, strong: u8) -> Index {
    let shape = Shape { length: base.len() as u64, block, strong };
    Index::new(shape, sums(base, block, strong)).unwrap()
}

/// Searches in windows of this size, and checks that the runs make the new file.
fn search(base: &[u8], new: &[u8], block: u32, window: usize) -> Vec<Run> {
    let index = index(base, block, 8);
    let mut search = Search::new(&index, 0);
    let mut at = 0;
    loop {
        let end = (at + window).min(new.len());
        at += search.window(&new[at..end], end == new.len());
        if end == new.len() {
            break;
        }
    }
    let mut made = vec![];
    for run in &search.runs.0 {
        let length = usize::try_from(run.length()).unwrap();
        match run {
            Run::Copy { from, .. } => {
                made.extend_from_slice(&base[usize::try_from(*from).unwrap()..][..length])
            }
            Run::New { .. } => made.extend_from_slice(&new[made.len()..][..length]),
            Run::Zero { .. } => made.resize(made.len() + length, 0),
        }
    }
    assert!(made == new, "the runs do not make the new file");
    search.runs.0
}

fn literal(runs: &[Run]) -> u64 {
    runs.iter().filter(|run| matches!(run, Run::New { .. })).map(Run::length).sum()
}

#[test]
fn an_identical_file_is_one_copy_to_the_last_byte() {
    for length in [1000, 4096, 100_000, 1_000_001] {
        let base = noise(1, length);
        assert_eq!(search(&base, &base, 1024, 300_000), [Run::Copy { from: 0, length: length as u64 }]);
    }
}

#[test]
fn edits_and_insertions_cost_their_blocks() {
    let base = noise(2, 1 << 20);
    let mut new = base.clone();
    new[500_000] ^= 1;
    new.splice(200_000..200_000, noise(3, 777));
    assert!(literal(&search(&base, &new, 1024, 1 << 18)) <= 3 * 1024 + 777);
    assert_eq!(literal(&search(&base, &base[1..], 1024, 1 << 18)), 1023);
}

#[test]
fn edges_of_blocks_and_repetitions() {
    let block = 1024;
    for length in [0, 1, block - 1, block, block + 1, 10 * block] {
        for byte in [0, 7] {
            let data = vec![byte; length];
            for base_length in [1, block - 1, block, block + 1, 20 * block] {
                search(&vec![byte; base_length], &data, 1024, 5000);
                search(&noise(5, base_length), &data, 1024, 5000);
            }
        }
    }
    let zeros = vec![0; 4 * PIECE + 100];
    let runs = search(&noise(6, 10_000), &zeros, 1024, 3 * PIECE);
    assert_eq!(runs, [Run::Zero { length: 4 * PIECE as u64 }, Run::New { length: 100 }]);
    let same = vec![9; 1 << 20];
    assert!(search(&same, &same, 1024, 1 << 18).len() <= 1024);
}

#[test]
fn adversarial_sums_cost_no_more_than_the_budget() {
    // Every position of this data has a weak sum that a block has, too, with another strong one.
    let block = 64 << 10;
    let new = noise(7, 4 << 20);
    let mut forged = vec![];
    let mut rolling = Rolling::new(&new[..block]);
    for at in 0..60_000 {
        forged.extend_from_slice(&rolling.sum().to_be_bytes());
        forged.extend_from_slice(&[0; 8]);
        rolling.rotate(new[at], new[at + block]);
    }
    let shape = Shape { length: 60_000 * block as u64, block: block as u32, strong: 8 };
    let index = Index::new(shape, forged).unwrap();
    let begun = Instant::now();
    let mut search = Search::new(&index, 0);
    search.window(&new, true);
    assert!(search.is_exhausted());
    assert_eq!(search.runs.0, [Run::New { length: 4 << 20 }]);
    // 60,000 strong sums of 64 KiB each would be 3.9 GB; the budget allows some 130.
    assert!(search.missed <= FREE_MISSES + (1 << 20));
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
}

#[test]
fn any_number_of_blocks_with_one_weak_sum_is_one_look() {
    let new = noise(8, 1 << 20);
    let sum = Rolling::new(&new[..1024]).sum();
    let forged: Vec<u8> =
        (0..400_000_u32).flat_map(|at| [sum.to_be_bytes(), at.to_be_bytes()].concat()).collect();
    let index = Index::new(Shape { length: 400_000 * 1024, block: 1024, strong: 4 }, forged).unwrap();
    let begun = Instant::now();
    Search::new(&index, 0).window(&new, true);
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
}

#[test]
fn sums_of_another_number_of_blocks_are_refused() {
    let shape = Shape { length: 10_000, block: 1024, strong: 4 };
    assert!(Index::new(shape, vec![0; 10 * 8]).is_some());
    for length in [0, 79, 81, 88] {
        assert!(Index::new(shape, vec![0; length]).is_none(), "{length}");
    }
}

#[test]
fn the_weak_sum_rolls_like_the_one_that_is_computed() {
    let data = noise(9, 5000);
    let mut rolling = Rolling::new(&data[..700]);
    for at in 0..4000 {
        assert_eq!(rolling.sum(), Rolling::new(&data[at..at + 700]).sum());
        rolling.rotate(data[at], data[at + 700]);
    }
}

/// A new file out of cuts of the base, noise and zeros.
fn edited() -> impl Strategy<Value = (Vec<u8>, Vec<u8>)> {
    let piece = prop_oneof![
        (0_usize..60_000, 0_usize..20_000).prop_map(Some).prop_map(|cut| (cut, 0, 0)),
        (any::<u64>(), 0_usize..3000).prop_map(|(seed, length)| (None, seed, length)),
        (0_usize..150_000).prop_map(|length| (None, 0, length)),
    ];
    (any::<u64>(), proptest::collection::vec(piece, 0..8)).prop_map(|(seed, pieces)| {
        let base = noise(seed | 1, 60_000);
        let mut new = vec![];
        for piece in pieces {
            match piece {
                (Some((start, length)), ..) => {
                    new.extend_from_slice(&base[start..(start + length).min(base.len())])
                }
                (None, 0, length) => new.resize(new.len() + length, 0),
                (None, seed, length) => new.extend(noise(seed, length)),
            }
        }
        (base, new)
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn whatever_is_found_makes_the_new_file((base, new) in edited(), window in 1025_usize..70_000) {
        search(&base, &new, 256, window);
    }

    #[test]
    fn it_finds_as_much_as_fast_rsync((base, new) in edited()) {
        let options = fast_rsync::SignatureOptions { block_size: 256, crypto_hash_size: 8 };
        let signature = fast_rsync::Signature::calculate(&base, options);
        let mut delta = vec![];
        fast_rsync::diff(&signature.index(), &new, &mut delta).unwrap();
        let ours = search(&base, &new, 256, 1 << 20);
        // Runs of ten bytes at most, and a match that one takes may cost the other a block.
        prop_assert!(literal(&ours) <= delta.len() as u64 + 256 * 8);
    }
}

//! Container images of the tests: a folder, packed without Docker by `scripts/pack-image`.

use anyhow::{Context as _, Result};
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use tempfile::TempDir;

/// The folder of this checkout.
pub fn root() -> PathBuf {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    tests.parent().unwrap_or(tests).to_owned()
}

/// Busybox and a link to it for each of its tools.
pub fn busybox_root() -> Result<TempDir> {
    let folder = tempfile::tempdir()?;
    let bin = folder.path().join("bin");
    fs::create_dir(&bin)?;
    let busybox = ["/usr/bin/busybox", "/bin/busybox"].into_iter().find(|path| Path::new(path).is_file());
    fs::copy(busybox.context("find busybox")?, bin.join("busybox"))?;
    let tools = Command::new(bin.join("busybox")).arg("--list").output()?;
    for tool in String::from_utf8(tools.stdout)?.lines().filter(|tool| *tool != "busybox") {
        symlink("busybox", bin.join(tool))?;
    }
    Ok(folder)
}

/// The directory as an image of this name.
pub fn pack(folder: &TempDir, name: &str, entrypoint: &str) -> Result<PathBuf> {
    let file = name.rsplit('/').next().unwrap_or(name).replace(':', "-");
    let out = root().join("target/images").join(format!("{file}.tar"));
    let packed = Command::new(root().join("scripts/pack-image"))
        .args([name, &out.display().to_string(), entrypoint])
        .arg(folder.path())
        .status()?;
    anyhow::ensure!(packed.success(), "pack-image: {packed}");
    Ok(out)
}

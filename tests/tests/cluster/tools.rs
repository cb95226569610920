//! An image with what developers have in theirs: a shell with job control, rsync, socat and an editor.

use super::setup::{busybox_root, once, pack};
use anyhow::{Context as _, Result, ensure};
use skpr_tests::cluster::Cluster;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;

pub(crate) const TOOLS_IMAGE: &str = "skpr-test-tools:1";
/// Of this machine, with the libraries that they are linked with.
const PROGRAMS: [&str; 4] = ["/bin/bash", "/usr/bin/rsync", "/usr/bin/socat", "/usr/bin/stty"];

/// Puts the image on the nodes.
pub(crate) fn load_tools_image(cluster: &Cluster) -> Result<()> {
    static LOADED: Mutex<bool> = Mutex::new(false);
    once(cluster, &LOADED, |own| {
        let folder = busybox_root()?;
        for program in PROGRAMS {
            let place = folder.path().join("bin").join(Path::new(program).file_name().context("a name")?);
            fs::remove_file(&place).ok();
            fs::copy(program, &place).with_context(|| format!("copy {program}"))?;
            for library in libraries(program)? {
                let place = folder.path().join(library.strip_prefix("/")?);
                fs::create_dir_all(place.parent().context("a folder")?)?;
                fs::copy(&library, place)?;
            }
        }
        own.load(&pack(&folder, &format!("docker.io/library/{TOOLS_IMAGE}"), r#"["/bin/bash"]"#)?)
    })
}

/// `ldd` names the loader by its own path and each library as `NAME => PATH (ADDRESS)`.
fn libraries(program: &str) -> Result<Vec<PathBuf>> {
    let listed = Command::new("ldd").arg(program).output()?;
    ensure!(listed.status.success(), "ldd {program}");
    let text = String::from_utf8(listed.stdout)?;
    Ok(text.split_whitespace().filter(|word| word.starts_with('/')).map(PathBuf::from).collect())
}

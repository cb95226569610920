//! Compiles what is used of containerd's API with protox, so that no `protoc` has to be installed.
use std::error::Error;

fn main() -> Result<(), Box<dyn Error>> {
    let files = ["proto/containers.proto", "proto/tasks.proto"];
    for file in files {
        println!("cargo::rerun-if-changed={file}");
    }
    let descriptors = protox::compile(files, ["proto"])?;
    tonic_prost_build::configure()
        .build_transport(false)
        // The tests' containerd.
        .server_mod_attribute(".", "#[cfg(test)]")
        .compile_fds(descriptors)?;
    Ok(())
}

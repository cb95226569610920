//! Connections to ports, from inside a container's network.
//!
//! A thread goes there, makes the connection and ends; what it made stays where it was made. Names mean what they mean to
//! the container, by its own `/etc/hosts` and `/etc/resolv.conf`, and are asked for from there.

use super::find::Found;
use super::root::Root;
use super::{Containerd, StartError};
use crate::worker::process;
use hickory_resolver::TokioResolver;
use hickory_resolver::config::ResolveHosts;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::system_conf::parse_resolv_conf;
use rustix::fs::{Mode, OFlags, openat};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream as StdTcpStream};
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::runtime::Builder;
use tokio::sync::oneshot;
use tokio::time::timeout;

/// A thread that has nobody left to connect for ends by then.
const CONNECTED_WITHIN: Duration = Duration::from_secs(10);
/// Of a name that has more addresses than that, the first ones are tried.
const ADDRESSES: usize = 8;

/// A container as far as its network goes.
struct Inside {
    network: OwnedFd,
    root: Root,
}

pub(super) async fn port(
    containerd: &Containerd,
    found: &Found,
    host: &str,
    port: u16,
) -> io::Result<TcpStream> {
    let inside = inside(containerd, found).await.map_err(io::Error::other)?;
    let place = Arc::clone(&containerd.0.connecting).acquire_owned().await.map_err(io::Error::other)?;
    let (tell, told) = oneshot::channel();
    let host = host.to_owned();
    thread::Builder::new().name("connect".into()).spawn(move || {
        // Whoever asked may not wait any more; the thread still has its place.
        drop(tell.send(connect(&inside, &host, port)));
        drop(place);
    })?;
    let stream = told.await.map_err(io::Error::other)??;
    TcpStream::from_std(stream)
}

async fn inside(containerd: &Containerd, found: &Found) -> Result<Inside, StartError> {
    let shared = &containerd.0;
    let process = process(&shared.places.proc, found.pid)?;
    let network = openat(&process, "ns/net", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        .map_err(io::Error::from)?;
    let root = Root::of(&shared.places.proc, found.pid)?;
    // Both are the container's if their process still is.
    if shared.api.runs(&found.id).await? != Some(found.pid) {
        return Err(StartError::Gone);
    }
    Ok(Inside { network, root })
}

/// On a thread of its own, which cannot come back.
fn connect(inside: &Inside, host: &str, port: u16) -> io::Result<StdTcpStream> {
    let here = hosts(inside, host);
    move_into_link_name_space(inside.network.as_fd(), Some(LinkNameSpaceType::Network))?;
    let connected = async {
        let addresses = match here {
            Some(addresses) => addresses,
            None => look_up(inside, host).await?,
        };
        let mut last = io::ErrorKind::NotFound.into();
        for address in addresses.into_iter().take(ADDRESSES) {
            match TcpStream::connect(SocketAddr::new(address, port)).await {
                Ok(stream) => {
                    stream.set_nodelay(true)?;
                    return stream.into_std();
                }
                Err(error) => last = error,
            }
        }
        Err(last)
    };
    let runtime = Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async { timeout(CONNECTED_WITHIN, connected).await })?
}

/// The addresses that need no question.
fn hosts(inside: &Inside, host: &str) -> Option<Vec<IpAddr>> {
    if let Ok(address) = host.trim_start_matches('[').trim_end_matches(']').parse() {
        return Some(vec![address]);
    }
    let file = inside.root.read(Path::new("/etc/hosts")).unwrap_or_default();
    let listed = listed(&String::from_utf8_lossy(&file), host);
    match listed.is_empty() {
        false => Some(listed),
        // By RFC 6761 never anything else.
        true if host.eq_ignore_ascii_case("localhost") => {
            Some(vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()])
        }
        true => None,
    }
}

/// What a file like `/etc/hosts` says of a name.
fn listed(file: &str, host: &str) -> Vec<IpAddr> {
    let lines = file.lines().filter_map(|line| {
        let mut words = line.split('#').next()?.split_whitespace();
        let address = words.next()?.parse().ok()?;
        words.any(|name| name.eq_ignore_ascii_case(host)).then_some(address)
    });
    lines.collect()
}

/// What the container's name servers say.
async fn look_up(inside: &Inside, host: &str) -> io::Result<Vec<IpAddr>> {
    let file = inside.root.read(Path::new("/etc/resolv.conf"))?;
    let (config, mut options) = parse_resolv_conf(&file).map_err(io::Error::other)?;
    let mut resolver = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
    // The file of that name here is not the container's, which has been looked at.
    options.use_hosts_file = ResolveHosts::Never;
    *resolver.options_mut() = options;
    let resolver = resolver.build().map_err(io::Error::other)?;
    let found = resolver.lookup_ip(host).await.map_err(io::Error::other)?;
    Ok(found.iter().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_the_container_s_own_file_come_first() {
        let file = "127.0.0.1 localhost\n::1\tlocalhost ip6\n10.0.0.7 Db.internal db # old.db\nbroken db\n\n";
        let listed =
            |host: &str| -> Vec<String> { listed(file, host).iter().map(ToString::to_string).collect() };
        assert_eq!(listed("LOCALHOST"), ["127.0.0.1", "::1"]);
        assert_eq!(listed("db"), ["10.0.0.7"]);
        assert_eq!(listed("db.internal"), ["10.0.0.7"]);
        for none in ["old.db", "10.0.0.7", "", "#"] {
            assert!(listed(none).is_empty(), "{none}");
        }
    }
}

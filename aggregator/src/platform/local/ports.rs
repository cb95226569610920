//! Ports for instances, from the kernel. None is given to two at a time; that nothing else takes one between now and
//! the instance's own bind cannot be promised, and an instance that finds it taken is started again with another.

use std::collections::HashSet;
use std::io;
use std::net::{Ipv4Addr, TcpListener};
use std::sync::{Arc, Mutex, PoisonError};

/// Tries before giving up: the kernel seldom gives a port twice while it has others.
const TRIES: usize = 64;

/// All ports that are given out. Clones give out of the same.
#[derive(Clone, Debug, Default)]
pub(super) struct Ports(Arc<Mutex<HashSet<u16>>>);

/// A port that is one instance's until this is dropped.
#[derive(Debug)]
pub(super) struct Port {
    ports: Ports,
    number: u16,
}

impl Ports {
    pub(super) fn take(&self) -> io::Result<Port> {
        for _ in 0..TRIES {
            let number = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port();
            if self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(number) {
                return Ok(Port { ports: self.clone(), number });
            }
        }
        Err(io::Error::new(io::ErrorKind::AddrInUse, "no free port is left"))
    }
}

impl Port {
    pub(super) fn number(&self) -> u16 {
        self.number
    }
}

impl Drop for Port {
    fn drop(&mut self) {
        self.ports.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_port_is_given_twice_until_it_is_given_back() {
        let ports = Ports::default();
        let taken: Vec<_> = (0..200).map(|_| ports.take().unwrap()).collect();
        let numbers: HashSet<u16> = taken.iter().map(Port::number).collect();
        assert_eq!(numbers.len(), 200);
        drop(taken);
        assert!(ports.0.lock().unwrap().is_empty());
    }
}

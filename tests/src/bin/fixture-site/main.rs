//! A web site for tests, which needs nothing installed: answers with its version on `$PORT`. A file `how` in its
//! directory that says `exit` makes it end at once with code 3.

use std::io::{BufRead as _, Write as _};
use std::net::{Ipv4Addr, TcpListener};

fn main() -> anyhow::Result<()> {
    if std::fs::read_to_string("how").is_ok_and(|how| how == "exit") {
        std::process::exit(3);
    }
    let (port, version) = (std::env::var("PORT")?.parse()?, std::env::var("SKPR_VERSION")?);
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port))?;
    for connection in listener.incoming() {
        let mut connection = connection?;
        let answer = format!("HTTP/1.0 200 OK\r\n\r\n{version}");
        // A caller that has gone is no reason to end.
        std::io::BufReader::new(&connection).read_line(&mut String::new()).ok();
        connection.write_all(answer.as_bytes()).ok();
    }
    Ok(())
}

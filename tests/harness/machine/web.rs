//! A minimal web server of the files of a folder, for programs under test that fetch them.

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd as _;
use std::path::{Component, Path};
use std::thread;

use anyhow::{Context as _, Result, ensure};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// Serves a folder on a free port of 127.0.0.1 until this process ends, and returns the address as
/// an URL. `network` is the handle of the network namespace to do so in.
///
/// # Errors
/// When the namespace does not exist or no port is free.
pub fn serve(folder: &Path, network: Option<&Path>) -> Result<String> {
    let folder = folder.to_path_buf();
    let address = listen(network, move |connection| answer(connection, &folder))?;
    Ok(format!("http://{address}"))
}

/// Hands each connection to a free port of 127.0.0.1 to `handler`, on a thread of its own.
///
/// # Errors
/// As [`serve`].
pub fn listen(
    network: Option<&Path>,
    handler: impl Fn(TcpStream) -> Result<()> + Send + Sync + Clone + 'static,
) -> Result<SocketAddr> {
    let listener = match network.map(Path::to_path_buf) {
        None => TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?,
        // A socket stays in the namespace it was created in; the thread that entered it ends.
        Some(handle) => {
            let bind = move || -> Result<TcpListener> {
                let handle = File::open(&handle).context("open the network namespace")?;
                move_into_link_name_space(handle.as_fd(), Some(LinkNameSpaceType::Network))?;
                Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?)
            };
            thread::spawn(bind).join().ok().context("the thread panicked")??
        }
    };
    let address = listener.local_addr()?;
    thread::spawn(move || {
        for connection in listener.incoming().flatten() {
            let handler = handler.clone();
            // A client may disconnect early.
            thread::spawn(move || drop(handler(connection)));
        }
    });
    Ok(address)
}

/// Answers one GET with a file below `root`, and closes.
///
/// # Errors
/// When the request is invalid, or the client disconnects.
pub fn answer(connection: impl Read + Write, root: &Path) -> Result<()> {
    let mut reader = BufReader::new(connection);
    let path = request_target(&mut reader)?;
    let path = Path::new(path.trim_start_matches('/'));
    let inside = path.components().all(|part| matches!(part, Component::Normal(_)));
    ensure!(inside, "{} leaves the folder", path.display());
    let found = fs::read(root.join(path));
    let (status, body) = found.map_or(("404 Not Found", Vec::new()), |body| ("200 OK", body));
    let mut connection = reader.into_inner();
    let length = body.len();
    write!(
        connection,
        "HTTP/1.1 {status}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n"
    )?;
    connection.write_all(&body)?;
    connection.flush().map_err(Into::into)
}

/// Reads a request without a body, and returns the second word of its first line.
///
/// # Errors
/// When the request is invalid.
pub fn request_target(reader: &mut BufReader<impl Read>) -> Result<String> {
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let target = line.split_whitespace().nth(1).context("no request")?.to_owned();
    let mut header = String::new();
    while reader.read_line(&mut header)? > 2 {
        header.clear();
    }
    Ok(target)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Scratch, http};

    #[test]
    fn serves_the_files_of_its_folder_and_no_others() {
        let scratch = Scratch::new("web").unwrap();
        scratch.write("public/a/file", "content").unwrap();
        scratch.write("secret", "secret").unwrap();
        let address = serve(&scratch.path().join("public"), None).unwrap();
        let port = address.rsplit(':').next().unwrap().parse().unwrap();
        let found = http::get(port, "/a/file").unwrap();
        assert_eq!((found.status, found.body.as_str()), (200, "content"));
        assert_eq!(http::get(port, "/a").unwrap().status, 404);
        assert!(http::get(port, "/../secret").is_err());
    }
}

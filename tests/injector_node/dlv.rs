//! Stands in for the Delve debugger: takes its command line, listens where it would, and becomes the
//! program. Not part of the harness's crate; `injector_node.rs` compiles it as a static program.

use std::net::TcpListener;
use std::os::unix::process::CommandExt;
use std::process::{Command, exit};

fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let ["--listen", address, "--accept-multiclient", "--headless=true", "--log", "--api-version=2", "exec", program, "--", rest @ ..] =
        words.as_slice()
    else {
        eprintln!("the debugger does not understand {words:?}");
        exit(2);
    };
    let address = format!("0.0.0.0{address}");
    let Ok(listener) = TcpListener::bind(&address) else {
        eprintln!("the debugger cannot listen on {address}");
        exit(3);
    };
    drop(listener);
    println!("API server listening at: {address}");
    eprintln!("{}", Command::new(program).args(rest).exec());
    exit(4);
}

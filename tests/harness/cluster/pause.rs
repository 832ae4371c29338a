//! The first container of every Pod: it holds the Pod's namespaces and does nothing. Not part of
//! the harness's crate; `node_image.rs` compiles it as a static program.

fn main() {
    loop {
        std::thread::park();
    }
}

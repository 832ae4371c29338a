//! Compiles every `.proto` file below `proto/` with `protox`, so that no machine needs `protoc`.
use std::path::{Path, PathBuf};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let root = Path::new("proto");
    let mut files = Vec::new();
    collect(root, &mut files)?;
    files.sort();
    println!("cargo:rerun-if-changed=proto");
    let descriptors = protox::compile(&files, [root])?;
    let out = PathBuf::from(std::env::var_os("OUT_DIR").ok_or("OUT_DIR is unset")?);
    std::fs::write(out.join("descriptors.bin"), prost_types_encode(&descriptors))?;
    // The operator sends one buffer to many sidecars.
    tonic_prost_build::configure()
        .bytes(".dapr.proto.operator.v1")
        // Stored values are shared with the store.
        .bytes(".etcdserverpb")
        .bytes(".mvccpb")
        .codec_path("crate::codec::SmallBuffers")
        // Stored and forwarded as received, fields of later versions included.
        .extern_path(".dapr.proto.scheduler.v1.JobMetadata", "crate::job_metadata::JobMetadata")
        .compile_fds(descriptors)?;
    Ok(())
}

fn prost_types_encode(set: &prost_types::FileDescriptorSet) -> Vec<u8> {
    use protox::prost::Message as _;
    set.encode_to_vec()
}

fn collect(dir: &Path, files: &mut Vec<PathBuf>) -> std::io::Result<()> {
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        if path.is_dir() {
            collect(&path, files)?;
        } else if path.extension().is_some_and(|e| e == "proto") {
            files.push(path);
        }
    }
    Ok(())
}

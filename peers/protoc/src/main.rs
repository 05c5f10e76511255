//! Prints where the protobuf compiler is that building nostr-rs-relay asks for: cargo brings one.

fn main() {
    let path = protoc_bin_vendored::protoc_bin_path().expect("there is one for this platform");
    println!("{}", path.display());
}

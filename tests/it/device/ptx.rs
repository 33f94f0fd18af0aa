//! The committed device code belongs to its sources. No compiler is needed to see that.

#[test]
fn the_committed_ptx_is_that_of_the_sources() {
    let root = crate::root();
    if !root.join("Cargo.toml").is_file() {
        println!("passed over: the sources are not on this machine");
        return;
    }
    let problems = xtask::device::problems(root).unwrap();
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}

//! The committed device code belongs to its sources. No compiler is needed to see that.

#[test]
fn the_committed_ptx_is_that_of_the_sources() {
    let root = crate::root();
    if !root.join("Cargo.toml").is_file() {
        crate::support::skip::absent("the repository", "whether the PTX is that of the sources");
        return;
    }
    let problems = xtask::device::problems(root).unwrap();
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}

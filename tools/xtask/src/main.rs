//! Commands for people who work on tubelet: `cargo xtask <command>`.

fn main() {
    eprintln!("usage: cargo xtask tidy");
    std::process::exit(2);
}

//! Loads PTX files and lists their entries.

fn main() {
    for path in std::env::args().skip(1) {
        let text = std::fs::read_to_string(&path).expect("a readable file");
        match ptxsim::Machine::new(ptxsim::Config::default()).load(&text) {
            Ok(m) => {
                for e in m.entries() {
                    println!("{path}: {} {} instructions, {} parameters", e.name(), e.instructions(), e.params().len());
                }
            }
            Err(e) => println!("{path}: {e}"),
        }
    }
}

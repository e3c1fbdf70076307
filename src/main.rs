//! The entry of the master.

fn main() {
    runner::master::main()
}

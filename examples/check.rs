fn main() {
    let p = std::env::args().nth(1).unwrap();
    let c = runner::checker::check_command(std::path::Path::new(&p));
    println!("exit {c}");
}

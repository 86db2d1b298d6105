service "web" {
  type = "process"
  run {
    command = ["web", jion(",", ["a"]), file("x")]
  }
}

service "a" {
  type       = "process"
  depends_on = ["a"]
  run { command = ["a"] }
}

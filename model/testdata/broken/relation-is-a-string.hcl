service "web" {
  type       = "process"
  depends_on = "db"
  run { command = ["x"] }
}

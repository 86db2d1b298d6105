service "db" {
  type = "process"
  run { command = ["db"] }
}
service "web" {
  type        = "process"
  depends_on  = { store = "db" }
  connects_to = { store = "db" }
  run { command = ["web"] }
}

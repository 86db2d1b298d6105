service "db" {
  type = "process"
  run { command = ["x"] }
}
service "web" {
  type       = "process"
  depends_on = { "the database" = "db" }
  run { command = ["x"] }
}

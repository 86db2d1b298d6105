servce "web" {
  type = "process"
}
service "db" {
  type = "process"
  helth { tcp = true }
  run { command = ["db"] }
}

service "staff" {
  type = "process"
  run { command = ["bin/staff"] }
}

service "web" {
  type       = "process"
  depends_on = { staff = "staf" }
  run { command = ["bin/web"] }
}

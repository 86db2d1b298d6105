service "staff" {
  type = "process"
  run { command = ["x"] }
}
distribution {
  pin = { staff = "m1" }
}

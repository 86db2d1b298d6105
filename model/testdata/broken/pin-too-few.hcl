service "staff" {
  type      = "process"
  instances = 3
  run { command = ["x"] }
}
distribution {
  pin = { staff = ["m1", "m2", "m1"] }
}

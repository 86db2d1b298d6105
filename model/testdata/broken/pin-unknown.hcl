service "staff" {
  type = "process"
  run { command = ["x"] }
}
distribution {
  strategy = "sprad"
  pin      = { staf = ["m1"], staff = [] }
}

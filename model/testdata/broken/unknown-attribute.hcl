service "web" {
  type    = "process"
  depnds_on = ["db"]
  run {
    comand = ["web"]
  }
}

service "web[31m" {
	type = "process"
	run { command = ["x"] }
}

package node

import (
	"fmt"
	"path/filepath"
	"strings"
)

// PrintUnit is a systemd unit for the agent. KillMode=process and Delegate=yes let the keeper and its services live on
// while the agent is restarted or upgraded; DelegateSubgroup would move only the agent. args are what the agent is started
// with beside its data directory.
func PrintUnit(exe, dir string, args ...string) string {
	command := unitWord(exe) + " agent --data " + unitWord(dir)
	for _, arg := range args {
		command += " " + unitWord(arg)
	}
	return fmt.Sprintf(`# Save as /etc/systemd/system/isonomia.service, then: systemctl enable --now isonomia
[Unit]
Description=Isonomia agent
Documentation=https://github.com/isonomia-mesh/isonomia
After=network-online.target
Wants=network-online.target

[Service]
Type=exec
# A node that has left stays away until it is started with --rejoin.
ExecCondition=/usr/bin/test ! -e %s
ExecStart=%s
# A machine that is not a member yet needs --bootstrap, or --join and a token, once:
#   Environment=ISONOMIA_TOKEN=...   (systemctl edit isonomia; remove it afterwards)
Restart=always
RestartSec=1
# Only the agent is stopped with the unit: the keeper and the services go on.
KillMode=process
# The keeper makes a control group of its own below this one, and one for each service.
Delegate=yes
LimitNOFILE=1048576
TasksMax=infinity
OOMScoreAdjust=-500

[Install]
WantedBy=multi-user.target
`, unitWord(filepath.Join(dir, leftFile)), command)
}

// unitWord is a word of a command line as systemd reads it: in quotes where it must be, with its specifiers and variables
// taken literally.
func unitWord(word string) string {
	word = strings.NewReplacer("%", "%%", "$", "$$").Replace(word)
	if word != "" && !strings.ContainsAny(word, " \t\n'\"\\;") {
		return word
	}
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`).Replace(word) + `"`
}

package cli

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/isonomia-mesh/isonomia/node"
	"github.com/isonomia-mesh/isonomia/node/api"
)

// agentFlags are what the agent command takes. Those that the operator did not give leave what the file says.
type agentFlags struct {
	config, data, bind, advertise, name string
	bootstrap                           bool
	join                                []string
	token, tokenFile                    string
	attributes                          map[string]string
	logFormat                           string
	certLife                            time.Duration
	stopServices, printUnit, rejoin     bool
}

func newAgentCommand(c *console) *cobra.Command {
	f := &agentFlags{}
	cmd := &cobra.Command{
		Use:   "agent (--bootstrap | --join HOST:PORT --token-file FILE)",
		Short: "Run a node",
		Long: "Run the node of this machine until SIGTERM or Ctrl-C. The first node of a cluster is started with --bootstrap,\n" +
			"every other one with --join and a token; a data directory that knows its cluster needs neither.\n" +
			"When the agent ends its services go on, and the next agent finds them; --stop-services ends them with it.",
		Example: "  isonomia agent --bootstrap\n" +
			"  isonomia agent --join 10.0.0.1:7878 --token-file token.txt\n" +
			"  isonomia agent --advertise 10.0.0.2:7878 --attribute zone=a\n" +
			"  isonomia agent --print-unit > /etc/systemd/system/isonomia.service",
		Args:              noArguments,
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return runAgentCommand(cmd, c, f)
		},
	}
	f.register(cmd)
	return cmd
}

func (f *agentFlags) register(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringVar(&f.data, "data", node.DefaultDir(), "`DIR` that keeps the node's data")
	flags.StringVar(&f.bind, "bind", "0.0.0.0:7878", "`HOST:PORT` (UDP) to listen on")
	flags.StringVar(&f.advertise, "advertise", "", "`HOST:PORT` that others reach this node at (default: that of the default route)")
	flags.StringVar(&f.name, "name", "", "`NAME` of the node (default: the host name)")
	flags.StringVar(&f.config, "config", "", "HCL `FILE` with the same names, and attributes = { ... }")
	flags.BoolVar(&f.bootstrap, "bootstrap", false, "found a new cluster")
	flags.DurationVar(&f.certLife, "cert-life", 0, "with --bootstrap: how `LONG` the certificates of the cluster's nodes live; they are renewed at half (default 168h)")
	flags.StringArrayVar(&f.join, "join", nil, "`HOST:PORT` of a node of the cluster to join (repeatable)")
	flags.StringVar(&f.token, "token", "", "the `TOKEN` for --join; others can see it here, prefer the next two")
	flags.StringVar(&f.tokenFile, "token-file", "", "`FILE` that holds the token (or $ISONOMIA_TOKEN)")
	flags.StringToStringVar(&f.attributes, "attribute", nil, "an attribute of the node, `NAME=VALUE` (repeatable)")
	flags.Lookup("attribute").DefValue = "" // not "[]"
	flags.StringVar(&f.logFormat, "log-format", "text", "`FORMAT` of the log, text or json")
	flags.BoolVar(&f.stopServices, "stop-services", false, "end the services and their keeper with the agent")
	flags.BoolVar(&f.rejoin, "rejoin", false, "come back to the cluster that this node left")
	flags.BoolVar(&f.printUnit, "print-unit", false, "print a systemd unit for these flags and end")
	for _, name := range []string{"config", "token-file"} {
		_ = cmd.MarkFlagFilename(name)
	}
	_ = cmd.MarkFlagDirname("data")
	_ = cmd.RegisterFlagCompletionFunc("log-format", cobra.FixedCompletions([]string{"text", "json"}, cobra.ShellCompDirectiveNoFileComp))
}

func runAgentCommand(cmd *cobra.Command, c *console, f *agentFlags) error {
	if err := f.check(c); err != nil {
		return err
	}
	cfg, err := f.nodeConfig(cmd.Flags().Changed)
	if err != nil {
		return err
	}
	if f.printUnit {
		exe, err := os.Executable()
		if err != nil {
			return fmt.Errorf("find own executable: %w", err)
		}
		args, err := unitArguments(cmd)
		if err != nil {
			return err
		}
		_, err = fmt.Fprint(c.out, node.PrintUnit(exe, cfg.Dir, args...))
		return err
	}
	return node.Run(cmd.Context(), cfg)
}

// unitArguments are the flags that were given and that an agent needs each time it is started; the unit names the data
// directory anyway.
func unitArguments(cmd *cobra.Command) (args []string, err error) {
	for _, name := range []string{"config", "bind", "advertise", "name", "attribute", "log-format", "stop-services"} {
		if !cmd.Flags().Changed(name) {
			continue
		}
		value := cmd.Flags().Lookup(name).Value.String()
		switch name {
		case "attribute":
			value = strings.Trim(value, "[]")
		case "config":
			if value, err = filepath.Abs(value); err != nil {
				return nil, fmt.Errorf("find configuration %q: %w", value, err)
			}
		}
		args = append(args, "--"+name+"="+value)
	}
	return args, nil
}

// check completes the flags from the environment and refuses what cannot be meant.
func (f *agentFlags) check(c *console) error {
	var err error
	if f.data, err = filepath.Abs(f.data); err != nil {
		return fmt.Errorf("find data directory %q: %w", f.data, err)
	}
	if f.token, err = readToken(f.token, f.tokenFile, c.getenv); err != nil {
		return err
	}
	if f.bootstrap && len(f.join) > 0 {
		return usagef("--bootstrap founds a new cluster, --join enters an existing one", "--bootstrap and --join exclude each other")
	}
	if f.certLife != 0 && !f.bootstrap {
		return usagef("it is said once, when the cluster is founded", "--cert-life goes with --bootstrap")
	}
	addresses := map[string][]string{"bind": {f.bind}, "join": f.join}
	if f.advertise != "" {
		addresses["advertise"] = []string{f.advertise}
	}
	for _, name := range []string{"bind", "advertise", "join"} {
		for _, addr := range addresses[name] {
			if _, _, err := net.SplitHostPort(addr); err != nil {
				return usagef("for example --"+name+" 10.0.0.1:7878", "--%s %q is not HOST:PORT", name, addr)
			}
		}
	}
	if f.logFormat != "text" && f.logFormat != "json" {
		return usagef(didYouMean(f.logFormat, []string{"text", "json"}, "use text or json"), "--log-format %q is not known", f.logFormat)
	}
	return nil
}

// readToken takes the token from where it was given: the flag, the file, the environment, in this order.
func readToken(flag, file string, getenv func(string) string) (string, error) {
	switch {
	case flag != "" && file != "":
		return "", usagef("", "--token and --token-file exclude each other")
	case flag != "":
		return flag, nil
	case file != "":
		raw, err := os.ReadFile(file)
		if err != nil {
			return "", usagef("write it with: isonomia token create > FILE", "read token: %v", err)
		}
		if token := strings.TrimSpace(string(raw)); token != "" {
			return token, nil
		}
		return "", usagef("write it with: isonomia token create > FILE", "token file %q is empty", file)
	}
	return strings.TrimSpace(getenv("ISONOMIA_TOKEN")), nil
}

func newKeeperCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "keeper DIR",
		Short:   "Hold the service processes of a node; started by the agent",
		Example: "  isonomia keeper /var/lib/isonomia",
		Hidden:  true,
		Args:    exactlyOne,
		RunE:    func(_ *cobra.Command, args []string) error { return node.RunKeeper(args[0]) },
	}
}

func newBuildSandboxCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "build-sandbox",
		Short:   "Become a build command in its namespaces; started by the agent",
		Example: "  isonomia build-sandbox",
		Hidden:  true,
		Args:    noArguments,
		RunE:    func(*cobra.Command, []string) error { return node.RunBuildSandbox() },
	}
}

// nodeConfig is what the file says, overridden by the flags that were given.
func (f *agentFlags) nodeConfig(given func(flag string) bool) (node.Config, error) {
	var cfg node.Config
	if f.config != "" {
		var err error
		if cfg, err = node.LoadConfig(f.config); err != nil {
			return cfg, &api.Error{Code: api.CodeUsage, Message: err.Error(), Where: f.config}
		}
	}
	for _, v := range []struct {
		flag  string
		field *string
		value string
	}{
		{"data", &cfg.Dir, f.data}, {"bind", &cfg.Bind, f.bind}, {"advertise", &cfg.Advertise, f.advertise},
		{"name", &cfg.Name, f.name}, {"log-format", &cfg.LogFormat, f.logFormat},
	} {
		if given(v.flag) || *v.field == "" {
			*v.field = v.value
		}
	}
	if len(f.join) > 0 {
		cfg.Join = f.join
	}
	if len(f.attributes) > 0 {
		cfg.Attributes = f.attributes
	}
	if f.token != "" {
		cfg.Token = f.token
	}
	cfg.Bootstrap, cfg.StopServices, cfg.Rejoin, cfg.CertLife = f.bootstrap, f.stopServices, f.rejoin, f.certLife
	return cfg, nil
}

package cli

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/isonomia-mesh/isonomia/node/api"
)

// nearest finds the candidate that was probably meant by word; "" when none is close.
func nearest(word string, candidates []string) string {
	best, bestDistance := "", max(1, len(word)/3)+1
	for _, c := range candidates {
		d := distance(word, c)
		if len(word) >= 3 && strings.HasPrefix(c, word) {
			d = min(d, 1)
		}
		if d < bestDistance {
			best, bestDistance = c, d
		}
	}
	return best
}

// distance counts the letters to insert, delete, change or swap with their neighbour to get from a to b.
func distance(a, b string) int {
	before, prev := make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range prev {
		prev[j] = j
	}
	for i := 1; i <= len(a); i++ {
		row := make([]int, len(b)+1)
		row[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			row[j] = min(prev[j]+1, row[j-1]+1, prev[j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				row[j] = min(row[j], before[j-2]+1)
			}
		}
		before, prev = prev, row
	}
	return prev[len(b)]
}

func didYouMean(word string, candidates []string, otherwise string) string {
	if near := nearest(word, candidates); near != "" {
		return fmt.Sprintf("did you mean %q?", near)
	}
	return otherwise
}

func commandNames(cmd *cobra.Command) []string {
	var names []string
	for _, sub := range cmd.Commands() {
		if !sub.Hidden {
			names = append(names, sub.Name())
		}
	}
	return names
}

// unknownCommand is the error for a word that is no command of cmd.
func unknownCommand(cmd *cobra.Command, word string) error {
	return usagef(didYouMean(word, commandNames(cmd), "see "+cmd.CommandPath()+" --help"),
		"unknown command %q for %q", word, cmd.CommandPath())
}

// subcommandOnly is for a command that does nothing itself: any argument is a misspelt command.
func subcommandOnly(cmd *cobra.Command, args []string) error {
	if len(args) > 0 {
		return unknownCommand(cmd, args[0])
	}
	return nil
}

// noArguments, oneOrNone and exactlyOne check how many arguments there are; more or fewer is wrong usage.
func noArguments(cmd *cobra.Command, args []string) error {
	if len(args) > 0 {
		return usagef("usage: "+cmd.UseLine(), "%s takes no argument, got %q", cmd.CommandPath(), args[0])
	}
	return nil
}

// between takes so many arguments; most is -1 for any number.
func between(least, most int) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		switch {
		case len(args) < least:
			return usagef("usage: "+cmd.UseLine(), "%s needs %s more", cmd.CommandPath(), count(least-len(args), "argument"))
		case most >= 0 && len(args) > most:
			return usagef("usage: "+cmd.UseLine(), "%s takes %s at most, got %q as well", cmd.CommandPath(), count(most, "argument"), args[most])
		}
		return nil
	}
}

func oneOrNone(cmd *cobra.Command, args []string) error {
	if len(args) > 1 {
		return usagef("usage: "+cmd.UseLine(), "%s takes one argument, got %d", cmd.CommandPath(), len(args))
	}
	return nil
}

func exactlyOne(cmd *cobra.Command, args []string) error {
	if len(args) != 1 {
		return usagef("usage: "+cmd.UseLine(), "%s takes exactly one argument, got %d", cmd.CommandPath(), len(args))
	}
	return nil
}

// flagError makes wrong usage of what pflag says, with the flag that was probably meant.
func flagError(cmd *cobra.Command, err error) error {
	var missing *pflag.NotExistError
	if !errors.As(err, &missing) {
		return usagef("see "+cmd.CommandPath()+" --help", "%v", err)
	}
	var names []string
	cmd.Flags().VisitAll(func(f *pflag.Flag) {
		if !f.Hidden {
			names = append(names, f.Name)
		}
	})
	hint := "see " + cmd.CommandPath() + " --help"
	if near := nearest(missing.GetSpecifiedName(), names); near != "" && missing.GetSpecifiedShortnames() == "" {
		hint = fmt.Sprintf("did you mean --%s?", near)
	}
	return usagef(hint, "%v", err)
}

// knownServices complains about the first name that is no service of the system.
func knownServices(status api.Status, names []string) error {
	known := serviceNames(status)
	for _, name := range names {
		if !slices.Contains(known, name) {
			return &api.Error{Code: api.CodeNotFound, Where: name, Message: fmt.Sprintf("system %s has no service %q", status.System, name),
				Hint: didYouMean(name, known, "see isonomia status")}
		}
	}
	return nil
}

func serviceNames(status api.Status) []string {
	var names []string
	for _, in := range status.Instances {
		names = append(names, in.Service)
	}
	slices.Sort(names)
	return slices.Compact(names)
}

package main

import (
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"
)

// versionResult is what `walctl version` prints.
type versionResult struct {
	Version string `json:"version"`
	Commit  string `json:"commit,omitempty"`
	Go      string `json:"go"`
	System  string `json:"system"`
}

func (v versionResult) tables() []grid {
	rows := [][]any{{"version", v.Version}}
	if v.Commit != "" {
		rows = append(rows, []any{"commit", v.Commit})
	}
	return []grid{{rows: append(rows, []any{"go", v.Go}, []any{"system", v.System})}}
}

func newVersionCommand(g *globals) *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print the version of walctl",
		Long: `Print the version of walctl. For the service's, see "walctl status".

JSON: version, commit (where the build knows it), go, system.`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return g.print(cmd, readVersion())
		},
	}
}

// readVersion takes the version from where the build put it: no linker flags
// to forget.
func readVersion() versionResult {
	v := versionResult{Version: "(devel)", Go: runtime.Version(), System: runtime.GOOS + "/" + runtime.GOARCH}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return v
	}
	if info.Main.Version != "" {
		v.Version = info.Main.Version
	}
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" {
			v.Commit = s.Value
		}
	}
	return v
}

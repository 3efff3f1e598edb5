package config

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/knadh/koanf/parsers/yaml"
	"github.com/knadh/koanf/providers/env/v2"
	"github.com/knadh/koanf/providers/file"
	"github.com/knadh/koanf/providers/posflag"
	"github.com/knadh/koanf/v2"
	"github.com/spf13/pflag"
)

// prefix begins the environment variables that are settings.
const prefix = "WALSVC_"

// delimiter splits nested keys. Settings do not nest, so a dot in a key of the
// file names something that is not there.
const delimiter = "."

// Load returns the effective settings, checked. flags are those of Flags, after
// parsing; environ is as os.Environ returns it.
func Load(flags *pflag.FlagSet, environ []string) (Config, error) {
	k := koanf.New(delimiter)

	variables := env.Provider(delimiter, env.Opt{
		Prefix:      prefix,
		EnvironFunc: func() []string { return environ },
		TransformFunc: func(name, value string) (string, any) {
			if name = settingOf(name); flags.Lookup(name) == nil {
				return "", nil
			}
			return name, value
		},
	})
	set, err := variables.Read()
	if err != nil {
		return Config{}, fmt.Errorf("read environment: %w", err)
	}

	path, _ := set["config"].(string)
	if f := flags.Lookup("config"); f != nil && f.Changed {
		path = f.Value.String()
	}
	if path != "" {
		if err := k.Load(file.Provider(path), yaml.Parser()); err != nil {
			return Config{}, fmt.Errorf("read %s: %w", path, err)
		}
		var unknown []error
		for _, key := range k.Keys() {
			if key == "config" || flags.Lookup(key) == nil {
				unknown = append(unknown, fmt.Errorf("%s: unknown setting %q; see walsvc config", path, key))
			}
		}
		if len(unknown) > 0 {
			return Config{}, errors.Join(unknown...)
		}
	}
	if err := k.Load(variables, nil); err != nil {
		return Config{}, fmt.Errorf("read environment: %w", err)
	}
	named := k.Exists("data") || flags.Changed("data")
	// Flags that were given go over what is there, and the defaults of the others
	// go where nothing is.
	if err := k.Load(posflag.Provider(flags, delimiter, k), nil); err != nil {
		return Config{}, fmt.Errorf("read flags: %w", err)
	}

	c := Config{DataNamed: named}
	if err := k.UnmarshalWithConf("", &c, koanf.UnmarshalConf{Tag: "yaml"}); err != nil {
		return Config{}, unreadable(k, flags, err)
	}
	if err := c.Validate(); err != nil {
		return Config{}, err
	}
	return c, nil
}

// settingOf returns the name of the setting that a variable with the prefix is for, if
// there is one.
func settingOf(variable string) string {
	return strings.ReplaceAll(strings.ToLower(strings.TrimPrefix(variable, prefix)), "_", "-")
}

// Unknown returns the names of the WALSVC_* variables that are no settings, in order:
// one of them may have been meant to be.
func Unknown(flags *pflag.FlagSet, environ []string) (names []string) {
	for _, variable := range environ {
		name, _, _ := strings.Cut(variable, "=")
		if strings.HasPrefix(name, prefix) && flags.Lookup(settingOf(name)) == nil {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// FlagError says of a flag what is wrong with its value in the words of the settings:
// those of the library that parses it are about Go.
func FlagError(err error) error {
	invalid, ok := errors.AsType[*pflag.InvalidValueError](err)
	if !ok {
		return err
	}
	return misspelled("--"+invalid.GetFlag().Name, invalid.GetFlag(), invalid.GetValue(), invalid.Unwrap())
}

// unreadable says the same of what came from the environment and the file, where
// each error is of one setting, and names it.
func unreadable(k *koanf.Koanf, flags *pflag.FlagSet, err error) error {
	var wrong []error
	var walk func(err error)
	walk = func(err error) {
		if e, ok := err.(interface {
			Name() string
			Unwrap() error
		}); ok && flags.Lookup(e.Name()) != nil {
			wrong = append(wrong, misspelled(e.Name(), flags.Lookup(e.Name()), k.Get(e.Name()), e.Unwrap()))
			return
		}
		switch e := err.(type) { //nolint:errorlint // likewise
		case interface{ Unwrap() []error }:
			for _, err := range e.Unwrap() {
				walk(err)
			}
		case interface{ Unwrap() error }:
			walk(e.Unwrap())
		}
	}
	if walk(err); len(wrong) == 0 {
		return fmt.Errorf("read settings: %w", err)
	}
	return errors.Join(wrong...)
}

// misspelled returns what is wrong with a value, and what it may be.
func misspelled(name string, flag *pflag.Flag, value any, err error) error {
	var want string
	switch flag.Value.Type() {
	case "int":
		want = "not a whole number"
	case "bool":
		want = "neither true nor false"
	case "duration":
		want = "no time with a unit, such as 10s"
	default:
		if flag.Name != "log-level" {
			return fmt.Errorf("%s: %w", name, err) // says by itself what it may be
		}
		want = "none of debug, info, warn, error"
	}
	return fmt.Errorf("%s: %q is %s", name, fmt.Sprint(value), want)
}

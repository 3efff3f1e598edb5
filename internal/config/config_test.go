package config

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/cockroachdb/datadriven"
	"github.com/spf13/pflag"
	"gopkg.in/yaml.v3"
)

// load parses args and loads with environ.
func load(t testing.TB, args, environ []string) (Config, error) {
	t.Helper()
	flags := pflag.NewFlagSet("walsvc", pflag.ContinueOnError)
	Flags(flags)
	if err := flags.Parse(args); err != nil {
		return Config{}, FlagError(err)
	}
	return Load(flags, environ)
}

// TestTranscripts runs testdata. Each case is
//
//	load flags=(--codec=s2) env=(WALSVC_CODEC=zstd)
//	codec: none            the file; none is named if this is empty
//	----
//	codec: s2              what differs from the defaults, or the error
func TestTranscripts(t *testing.T) {
	datadriven.Walk(t, "testdata", func(t *testing.T, path string) {
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			var args, environ []string
			for _, a := range d.CmdArgs {
				switch a.Key {
				case "flags":
					args = append(args, a.Vals...)
				case "env":
					environ = append(environ, a.Vals...)
				default:
					d.Fatalf(t, "unknown argument %s", a.Key)
				}
			}
			if d.Input != "" {
				file := filepath.Join(t.TempDir(), "walsvc.yaml")
				if err := os.WriteFile(file, []byte(d.Input), 0o600); err != nil {
					t.Fatal(err)
				}
				environ = append(environ, "WALSVC_CONFIG="+file)
			}
			c, err := load(t, args, environ)
			if err != nil {
				return "error: " + clean(err) + "\n"
			}
			return difference(t, c)
		})
	})
}

// clean takes the temporary file's directory out of an error.
func clean(err error) string {
	text := err.Error()
	for word := range strings.FieldsSeq(text) {
		if i := strings.Index(word, "walsvc.yaml"); i > 0 && strings.HasPrefix(word, os.TempDir()) {
			text = strings.ReplaceAll(text, word[:i], "")
		}
	}
	return text
}

// difference returns the lines that c prints and the defaults do not.
func difference(t testing.TB, c Config) string {
	t.Helper()
	var was, is bytes.Buffer
	if err := Defaults().WriteYAML(&was); err != nil {
		t.Fatal(err)
	}
	if err := c.WriteYAML(&is); err != nil {
		t.Fatal(err)
	}
	defaults := strings.Split(was.String(), "\n")
	var out strings.Builder
	for line := range strings.SplitSeq(is.String(), "\n") {
		if !slices.Contains(defaults, line) {
			out.WriteString(line + "\n")
		}
	}
	if c.DataNamed {
		out.WriteString("(data was named)\n")
	}
	return out.String()
}

// TestUnknown: a typo in a variable is no error, and no secret.
func TestUnknown(t *testing.T) {
	flags := pflag.NewFlagSet("walsvc", pflag.ContinueOnError)
	Flags(flags)
	environ := []string{"WALSVC_TLS_CLIENT_AC=/ca.pem", "WALSVC_TLS_CLIENT_CA=/ca.pem", "WALSVC_CONFIG=/x", "TLS_CLIENT_CA=y", "WALSVC_PORT=tcp://10.0.0.1:80", "WALSVC_"}
	if got, want := Unknown(flags, environ), []string{"WALSVC_", "WALSVC_PORT", "WALSVC_TLS_CLIENT_AC"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestPrintedConfigLoadsAgain(t *testing.T) {
	want := Defaults()
	want.Listen, want.PrepareRate, want.SegmentSize, want.DataNamed = "127.0.0.1:7400", Unlimited, 1<<20, true
	file := filepath.Join(t.TempDir(), "walsvc.yaml")
	var text bytes.Buffer
	if err := want.WriteYAML(&text); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, text.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	got, err := load(t, []string{"--config", file}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if got != want {
		t.Errorf("printed and loaded again:\n got %+v\nwant %+v", got, want)
	}
}

func TestJSONSaysWhatYAMLSays(t *testing.T) {
	var text, object bytes.Buffer
	c := Defaults()
	if err := c.WriteYAML(&text); err != nil {
		t.Fatal(err)
	}
	if err := c.WriteJSON(&object); err != nil {
		t.Fatal(err)
	}
	var want, got map[string]any
	if err := yaml.Unmarshal(text.Bytes(), &want); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(object.Bytes(), &got); err != nil {
		t.Fatal(err)
	}
	for name, v := range got { // JSON has floats only
		if f, ok := v.(float64); ok {
			got[name] = int(f)
		}
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("as JSON:\n got %v\nwant %v", got, want)
	}
}

// TestEverySettingHasAFlag also finds flags that set nothing.
func TestEverySettingHasAFlag(t *testing.T) {
	flags := pflag.NewFlagSet("walsvc", pflag.ContinueOnError)
	Flags(flags)
	var settings, names []string
	for field := range reflect.TypeFor[Config]().Fields() {
		if name := field.Tag.Get("yaml"); name != "-" {
			settings = append(settings, name)
			if j := field.Tag.Get("json"); j != name {
				t.Errorf("%s is %q in YAML and %q in JSON", field.Name, name, j)
			}
		}
	}
	flags.VisitAll(func(f *pflag.Flag) {
		if f.Name != "config" {
			names = append(names, f.Name)
		}
	})
	slices.Sort(settings)
	slices.Sort(names)
	if !slices.Equal(settings, names) {
		t.Errorf("settings %v\n   flags %v", settings, names)
	}
}

func TestDefaultsOfFlagsAreTheDefaults(t *testing.T) {
	c, err := load(t, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	if c != Defaults() {
		t.Errorf("without settings:\n got %+v\nwant %+v", c, Defaults())
	}
}

func TestSize(t *testing.T) {
	for text, want := range map[string]Size{
		"0B": 0, "1B": 1, "4095B": 4095, "4KiB": 4 << 10, "64MiB": 64 << 20, "3GiB": 3 << 30,
		"8191MiB": 8191 << 20, "unlimited": Unlimited,
	} {
		got, err := ParseSize(text)
		if err != nil || got != want || got.String() != text {
			t.Errorf("ParseSize(%q) = %d, %v; spelled %q", text, got, err, got)
		}
	}
	if got, err := ParseSize("65536"); err != nil || got != 64<<10 {
		t.Errorf("ParseSize of a plain number = %d, %v", got, err)
	}
	for _, text := range []string{"", "MiB", "-1", "1.5GiB", "64MB", "1e3", "9999999999GiB", "9223372036854775808", "limited"} {
		if got, err := ParseSize(text); err == nil {
			t.Errorf("ParseSize(%q) = %d", text, got)
		}
	}
}

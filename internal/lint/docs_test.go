package lint

import (
	"path"
	"regexp"
	"strings"
	"testing"
)

// documents returns the names of the files that people read.
func (r *sourceTree) documents() []string {
	var out []string
	for _, name := range r.files {
		if path.Ext(name) == ".md" {
			out = append(out, name)
		}
	}
	return out
}

var (
	links    = regexp.MustCompile(`\]\(([^()\s]+)\)`)
	headings = regexp.MustCompile(`(?m)^#+ +(.*)$`)
	fences   = regexp.MustCompile("(?ms)^```.*?^```$")
)

// TestLinks checks that what documents point at is there.
func TestLinks(t *testing.T) {
	r := repository(t)
	for _, name := range r.documents() {
		text := fences.ReplaceAllString(r.read(t, name), "")
		for _, m := range links.FindAllStringSubmatch(text, -1) {
			target, anchor, _ := strings.Cut(m[1], "#")
			if strings.Contains(target, "://") {
				continue
			}
			file := name
			if target != "" {
				file = path.Join(path.Dir(name), target)
			}
			if !r.exists(file) {
				t.Errorf("%s points at %s, which does not exist", name, file)
				continue
			}
			if anchor != "" && !anchors(r.read(t, file))[anchor] {
				t.Errorf("%s points at %s in %s, which has no such heading", name, anchor, file)
			}
		}
	}
}

// anchors returns what can be pointed at in a document.
func anchors(text string) map[string]bool {
	out := map[string]bool{}
	for _, m := range headings.FindAllStringSubmatch(fences.ReplaceAllString(text, ""), -1) {
		heading := strings.Map(func(c rune) rune {
			switch {
			case c == ' ':
				return '-'
			case c == '-' || c == '_' || c >= 'a' && c <= 'z' || c >= '0' && c <= '9':
				return c
			}
			return -1
		}, strings.ToLower(m[1]))
		out[heading] = true
	}
	return out
}

var (
	makeTargets  = regexp.MustCompile(`(?m)^([a-z][a-z-]*):`)
	makeCommands = regexp.MustCompile("(?m)(?:^|`)make ([a-z][a-z-]*)")
	runCommands  = regexp.MustCompile(`go run \./([a-z/]+)`)
)

// TestCommands checks that the commands in documents can be given.
func TestCommands(t *testing.T) {
	r := repository(t)
	targets := map[string]bool{}
	for _, m := range makeTargets.FindAllStringSubmatch(r.read(t, "Makefile"), -1) {
		targets[m[1]] = true
	}
	for _, name := range append(r.documents(), ".ci/run") {
		text := r.read(t, name)
		for _, m := range makeCommands.FindAllStringSubmatch(text, -1) {
			if !targets[m[1]] {
				t.Errorf("%s has make %s, the Makefile has not", name, m[1])
			}
		}
		for _, m := range runCommands.FindAllStringSubmatch(text, -1) {
			if !r.exists(m[1]) {
				t.Errorf("%s runs %s, which does not exist", name, m[1])
			}
		}
	}
	for _, must := range []string{"make demo", "make test"} {
		if !strings.Contains(r.read(t, "README.md"), must) {
			t.Errorf("the README does not say %s", must)
		}
	}
}

var testNames = regexp.MustCompile(`\b(([a-z0-9]+(?:/[a-z0-9]+)*)\.)?((?:Test|Fuzz|Benchmark|Example)[A-Z]\w*)\b`)

// TestNamedTests checks that the tests which documents call as witnesses exist:
// package.TestName, with the package's path in the module.
func TestNamedTests(t *testing.T) {
	r := repository(t)
	known := map[string]bool{}
	for _, f := range r.code {
		for _, d := range f.Scope.Objects {
			if f.test {
				known[f.dir+"."+d.Name] = true
			}
		}
	}
	for _, name := range r.documents() {
		for _, m := range testNames.FindAllStringSubmatch(r.read(t, name), -1) {
			if !known[m[2]+"."+m[3]] {
				t.Errorf("%s names %s; there is no such test", name, m[0])
			}
		}
	}
}

package penstock_test

import (
	"encoding/json"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/penstock-io/penstock"

// ours is who may import what of ours. Imports point one way, and siblings never import each other.
var ours = map[string][]string{
	"domain":                     {},
	"domain/billing":             {"domain"},
	"eventstore":                 {"domain"},
	"eventstore/eventstoretest":  {"domain", "eventstore"},
	"ingress":                    {"domain", "eventstore"},
	"commands":                   {"domain", "eventstore"},
	"projections":                {"domain", "eventstore"},
	"projections/balances":       {"domain", "domain/billing", "eventstore", "projections"},
	"projections/projectiontest": {"domain", "eventstore", "projections"},
	"egress":                     {"domain", "eventstore"},
	"replays":                    {"domain", "eventstore", "projections"},
	"api":                        {"domain", "eventstore", "ingress", "commands", "projections", "egress", "replays"},
	"web":                        {},
	"client":                     {},
	"":                           {"domain", "eventstore", "ingress", "commands", "projections", "egress", "replays", "api", "web", "client"},
	"cmd/penstock":               {"", "domain", "domain/billing", "projections", "projections/balances"},
}

// others is who may import what of others, each with its reason.
var others = []struct {
	prefix string
	by     []string
	reason string
}{
	{"github.com/twmb/franz-go", []string{"eventstore"}, "Kafka has one address: what is asked of it, and how its errors are read, is decided once"},
	{"go.etcd.io/bbolt", []string{"eventstore"}, "rows and position change in one transaction; only Table can promise that"},
	{"net/http", []string{"ingress", "egress", "api", "web", "client", ""}, "the engines are used without HTTP, and tested so"},
	{"github.com/danielgtaylor/huma", []string{"api"}, "one package describes the REST surface"},
	{"cel.dev/cel-go", []string{"ingress", "projections", "egress"}, "expressions belong to what operators configure"},
	{"github.com/spf13/cobra", []string{""}, "the command line is one place"},
	{"github.com/knadh/koanf", []string{""}, "configuration is read once and passed on as values"},
}

type pkg struct {
	ImportPath string
	GoFiles    []string
	Imports    []string
	Standard   bool
}

func list(t *testing.T) (pkgs []pkg) {
	t.Helper()
	out, err := exec.Command("go", "list", "-json=ImportPath,GoFiles,Imports", "./...").Output()
	if err != nil {
		t.Fatal(err)
	}
	for dec := json.NewDecoder(strings.NewReader(string(out))); dec.More(); {
		var p pkg
		if err := dec.Decode(&p); err != nil {
			t.Fatal(err)
		}
		pkgs = append(pkgs, p)
	}
	return pkgs
}

func short(path string) string { return strings.TrimPrefix(strings.TrimPrefix(path, module), "/") }

// TestImportsPointOneWay is the picture of the architecture as a test. bench and faults stand outside: they look at the
// program as strangers do.
func TestImportsPointOneWay(t *testing.T) {
	seen := 0
	for _, p := range list(t) {
		name := short(p.ImportPath)
		if top, _, _ := strings.Cut(name, "/"); top == "bench" || top == "faults" {
			continue
		}
		allowed, known := ours[name]
		if !known {
			t.Errorf("package %q is not in the picture: folders are nouns of the product; say in deps_test.go who may use it", name)
			continue
		}
		seen++
		for _, imp := range p.Imports {
			if strings.HasPrefix(imp, module) {
				if !slices.Contains(allowed, short(imp)) {
					t.Errorf("%q imports %q: imports point one way, and siblings meet only above", name, short(imp))
				}
				continue
			}
			if name == "domain" || name == "domain/billing" {
				if strings.Contains(strings.SplitN(imp, "/", 2)[0], ".") {
					t.Errorf("%q imports %s: the language of the domain needs the standard library only", name, imp)
				}
			}
			for _, ban := range others {
				if strings.HasPrefix(imp+"/", ban.prefix+"/") && !slices.Contains(ban.by, name) {
					t.Errorf("%q imports %s: %s", name, imp, ban.reason)
				}
			}
		}
	}
	if seen != len(ours) {
		t.Errorf("%d of %d packages found: deps_test.go names one that is gone", seen, len(ours))
	}
}

// TestKafkaAndTablesDontMeetInAFile keeps the two halves of eventstore apart.
func TestKafkaAndTablesDontMeetInAFile(t *testing.T) {
	out, err := exec.Command("grep", "-l", "go.etcd.io/bbolt", "-r", "eventstore", "--include=*.go").Output()
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range strings.Fields(string(out)) {
		if exec.Command("grep", "-q", "twmb/franz-go", file).Run() == nil {
			t.Errorf("%s imports both Kafka and bbolt: Position is what ties them", file)
		}
	}
}

func TestNoRegistrationByImport(t *testing.T) {
	out, _ := exec.Command("git", "grep", "-nE", `^func init\(\)`, "--", "*.go").Output()
	if len(out) > 0 {
		t.Errorf("wiring is values passed in, never init:\n%s", out)
	}
	for _, p := range list(t) {
		for _, part := range strings.Split(short(p.ImportPath), "/") {
			if slices.Contains([]string{"util", "utils", "common", "pkg", "helpers", "internal", "misc", "types", "mock"}, part) {
				t.Errorf("%s: a helper lives with its only user; with two users it has a real name", p.ImportPath)
			}
		}
	}
}

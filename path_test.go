package penstock_test

import (
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestThePathTableIsTrue reads the table "The path of a webhook" in the README: | step | file | symbol | … | and fails
// when a file, or the symbol named beside it, is gone.
func TestThePathTableIsTrue(t *testing.T) {
	readme, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, table, ok := strings.Cut(string(readme), "## The path of a webhook")
	if !ok {
		t.Fatal("the README has no section \"The path of a webhook\"")
	}
	table, _, _ = strings.Cut(table, "\n## ")
	row := regexp.MustCompile("(?m)^\\|[^|]+\\| \\[`([^`]+)`\\]\\(([^)]+)\\) \\| `([^`]+)` \\|")
	rows := row.FindAllStringSubmatch(table, -1)
	if len(rows) < 8 {
		t.Fatalf("the table has %d rows that name a file and a symbol", len(rows))
	}
	for _, r := range rows {
		name, link, symbol := r[1], r[2], r[3]
		if name != link {
			t.Errorf("%s links to %s", name, link)
		}
		source, err := os.ReadFile(name)
		if err != nil {
			t.Error(err)
			continue
		}
		// "Type.Method" is declared as func (x Type) Method or func (x *Type) Method; anything else as func, var or type.
		pattern := `(?m)^(func|type|var) ` + regexp.QuoteMeta(symbol) + `\b`
		if typ, method, isMethod := strings.Cut(symbol, "."); isMethod {
			pattern = `(?m)^func \(\w+ \*?` + regexp.QuoteMeta(typ) + `(\[\w+\])?\) ` + regexp.QuoteMeta(method) + `\b`
		}
		if !regexp.MustCompile(pattern).Match(source) {
			t.Errorf("%s has no %s", name, symbol)
		}
	}
}

// TestTheReadmesProgramCompiles builds the whole program that the README shows, as a package that exists only for the
// compiler.
func TestTheReadmesProgramCompiles(t *testing.T) {
	readme, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, program, ok := strings.Cut(string(readme), "```go\npackage main\n")
	program, _, closed := strings.Cut(program, "```")
	if !ok || !closed {
		t.Fatal("the README has no program")
	}
	if n := strings.Count(program, "\n"); n > 45 {
		t.Errorf("it has %d lines, and is said to have forty", n)
	}
	dir := t.TempDir()
	source, overlay := filepath.Join(dir, "main.go"), filepath.Join(dir, "overlay.json")
	here, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	replace, err := json.Marshal(map[string]any{"Replace": map[string]string{filepath.Join(here, "cmd", "readme", "main.go"): source}})
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.WriteFile(source, []byte("package main\n"+program), 0o600), os.WriteFile(overlay, replace, 0o600)); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("go", "build", "-overlay", overlay, "-o", filepath.Join(dir, "program"), "./cmd/readme").CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

package penstock_test

import (
	"os"
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

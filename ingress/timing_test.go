package ingress

import (
	"errors"
	"go/ast"
	"go/parser"
	lexer "go/token"
	"hash"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

// digestCount counts what a verification computes.
type digestCount struct{ made, summed int }

type countedHash struct {
	hash.Hash
	count *digestCount
}

func (h countedHash) Sum(b []byte) []byte { h.count.summed++; return h.Hash.Sum(b) }

func (c *digestCount) wrap(digest func() hash.Hash) func() hash.Hash {
	return func() hash.Hash { c.made++; return countedHash{digest(), c} }
}

// TestARefusalDoesNotTellHowNearItCame: wherever a signature begins to be wrong, the same is computed and the same is
// said. How long that takes is measured by bench, for a clock fails no test.
func TestARefusalDoesNotTellHowNearItCame(t *testing.T) {
	digits := regexp.MustCompile(`[A-Za-z0-9+/_-]{27,}`)
	now, tried := time.Unix(1_700_000_000, 0), 0
	for _, p := range Providers {
		r := sample(t, p, now)
		if p.Scheme.Algorithm != HMAC || p.Scheme.Header == "" || r.Header.Get(p.Scheme.Header) == "" {
			continue // there is no MAC in a header
		}
		var count digestCount
		scheme := p.Scheme
		scheme.Digest = count.wrap(scheme.Digest)
		keys := Keys(secretOf(p.Name), secretOf(p.Name))
		header := r.Header.Get(p.Scheme.Header)
		span := digits.FindAllStringIndex(header, -1)
		if scheme.Verify(t.Context(), &r, keys, now) != nil || len(span) == 0 {
			t.Errorf("%s: %q is no signature", p.Name, header)
			continue
		}
		if len(span) > 1 { // of a token the last part is the signature
			span = span[len(span)-1:]
		}
		var want digestCount
		said := ""
		for at := span[0][0]; at < span[0][1]-2; at++ { // the last digits of base64 may have bits that mean nothing
			other := byte('0')
			if header[at] == other {
				other = '1'
			}
			r.Header.Set(p.Scheme.Header, header[:at]+string(other)+header[at+1:])
			count = digestCount{}
			err := scheme.Verify(t.Context(), &r, keys, now)
			var f *Failure
			if !errors.As(err, &f) || f.Reason != WrongSignature {
				t.Fatalf("%s: wrong at %d: %v", p.Name, at, err)
			}
			if said == "" {
				said, want = f.Error(), count
			}
			if count != want || f.Error() != said {
				t.Errorf("%s: wrong at %d it computes %+v and says %q; elsewhere %+v and %q", p.Name, at, count, f, want, said)
			}
		}
		if want.summed < len(keys) {
			t.Errorf("%s: %d digests for %d secrets: one was not tried", p.Name, want.summed, len(keys))
		}
		tried++
	}
	if tried < 40 {
		t.Errorf("only %d rows were tried", tried)
	}
}

// TestSecretsAreComparedInConstantTime: in what verifies, nothing compares bytes or texts of a signature or a secret by any
// other way than hmac.Equal and subtle.ConstantTimeCompare, which don't stop at the first difference.
func TestSecretsAreComparedInConstantTime(t *testing.T) {
	banned := map[string]bool{"bytes.Equal": true, "bytes.Compare": true, "slices.Equal": true, "slices.Compare": true,
		"reflect.DeepEqual": true, "strings.Compare": true, "maps.Equal": true}
	secret := regexp.MustCompile(`(?i)^(sigs?|mac|what|signature|secret|passcode|credential|password)$`)
	var files []string
	for _, pattern := range []string{"scheme*.go", "vendor*.go", "pinned.go", "challenges*.go"} {
		found, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, found...)
	}
	fset, constant, looked := lexer.NewFileSet(), 0, 0
	for _, name := range files {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		file, err := parser.ParseFile(fset, name, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		looked++
		ast.Inspect(file, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.SelectorExpr:
				if x, ok := n.X.(*ast.Ident); ok {
					called := x.Name + "." + n.Sel.Name
					if banned[called] {
						t.Errorf("%s: %s stops at the first difference", fset.Position(n.Pos()), called)
					}
					if called == "hmac.Equal" || called == "subtle.ConstantTimeCompare" {
						constant++
					}
				}
			case *ast.BinaryExpr:
				if n.Op != lexer.EQL && n.Op != lexer.NEQ {
					return true
				}
				for i, side := range []ast.Expr{n.X, n.Y} {
					other := []ast.Expr{n.Y, n.X}[i]
					if secret.MatchString(lastName(side)) && !plain(other) {
						t.Errorf("%s: a comparison of %s by its first difference", fset.Position(n.Pos()), lastName(side))
					}
				}
			}
			return true
		})
	}
	if looked < 6 || constant < 3 {
		t.Errorf("%d files have %d comparisons in constant time: this test looks at the wrong ones", looked, constant)
	}
}

// lastName is what an expression is called: the name, the field, or what is converted.
func lastName(e ast.Expr) string {
	switch e := e.(type) {
	case *ast.Ident:
		return e.Name
	case *ast.SelectorExpr:
		return e.Sel.Name
	case *ast.CallExpr:
		if f, ok := e.Fun.(*ast.Ident); ok && f.Name == "string" && len(e.Args) == 1 {
			return lastName(e.Args[0])
		}
	}
	return ""
}

// plain says that an expression is a constant: what is compared with it is no secret's content.
func plain(e ast.Expr) bool {
	switch e := e.(type) {
	case *ast.BasicLit:
		return true
	case *ast.Ident:
		return e.Name == "nil"
	}
	return false
}

package penstock

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/go-viper/mapstructure/v2"
	"github.com/penstock-io/penstock/projections"
	yamlv3 "go.yaml.in/yaml/v3"
)

// ProjectionConfig is a read model declared in the file: docs/declared.md.
type ProjectionConfig struct {
	projections.Declaration

	wrong []problem // what the file says that can't be read, by key; told by problems, with the line
}

// decodeProjection is a decode hook for ProjectionConfig. What it can't read it leaves in the value, where problems finds
// it: an error of the decoder has no line.
func decodeProjection(_, to reflect.Type, data any) (any, error) {
	if to != reflect.TypeFor[ProjectionConfig]() {
		return data, nil
	}
	var p ProjectionConfig
	if m, ok := data.(map[string]any); ok {
		p.read(m)
	} else {
		p.bad("", "a projection has from, key and fields")
	}
	return p, nil
}

var _ mapstructure.DecodeHookFuncType = decodeProjection

func (p *ProjectionConfig) bad(key, format string, args ...any) {
	p.wrong = append(p.wrong, problem{key, fmt.Errorf(format, args...)})
}

func (p *ProjectionConfig) read(m map[string]any) {
	for _, key := range slices.Sorted(maps.Keys(m)) {
		v := m[key]
		switch key {
		case "from":
			p.readFrom(v)
		case "key":
			p.Key = p.text(key, v)
		case "delete_when":
			p.Delete = p.text(key, v)
		case "window":
			p.Window = p.duration(key, v)
		case "set":
			p.Set = p.texts(key, v)
		case "sum":
			p.Sum = p.texts(key, v)
		case "min":
			p.Min = p.texts(key, v)
		case "max":
			p.Max = p.texts(key, v)
		case "count":
			p.Count = p.list(key, v)
		case "append":
			p.readAppend(v)
		case "indexes":
			p.readIndexes(v)
		case "sample":
			p.readSample(v)
		default:
			p.bad(key, "no such key; a projection has from, key, window, set, count, sum, min, max, append, delete_when, indexes and sample")
		}
	}
}

func (p *ProjectionConfig) readFrom(v any) {
	m, ok := v.(map[string]any)
	if !ok {
		p.Types = p.list("from", v)
		return
	}
	for _, key := range slices.Sorted(maps.Keys(m)) {
		switch at := "from." + key; key {
		case "types":
			p.Types = p.list(at, m[key])
		case "sources":
			p.Sources = p.list(at, m[key])
		case "streams":
			p.Streams = p.list(at, m[key])
		case "where":
			p.Where = p.text(at, m[key])
		default:
			p.bad(at, "no such key; from has types, sources, streams and where")
		}
	}
}

// readAppend takes an expression alone, or {value, cap}.
func (p *ProjectionConfig) readAppend(v any) {
	p.Append = map[string]projections.Appended{}
	for name, v := range p.object("append", v) {
		key := "append." + name
		m, ok := v.(map[string]any)
		if !ok {
			p.Append[name] = projections.Appended{Value: p.text(key, v)}
			continue
		}
		var a projections.Appended
		for _, part := range slices.Sorted(maps.Keys(m)) {
			switch part {
			case "value":
				a.Value = p.text(key+".value", m[part])
			case "cap":
				n, ok := m[part].(int)
				if !ok || n < 1 {
					p.bad(key+".cap", "a whole number from 1 on, not %v", m[part])
				}
				a.Cap = n
			default:
				p.bad(key+"."+part, "no such key; it has value and cap")
			}
		}
		p.Append[name] = a
	}
}

// readIndexes takes a list of fields; an index over several of them is a list in the list, or they stand in one text
// with commas.
func (p *ProjectionConfig) readIndexes(v any) {
	list, ok := v.([]any)
	if !ok {
		list = []any{v}
	}
	for i, v := range list {
		fields := p.list(fmt.Sprintf("indexes[%d]", i), v)
		if text, ok := v.(string); ok {
			fields = nil
			for name := range strings.SplitSeq(text, ",") {
				fields = append(fields, strings.TrimSpace(name))
			}
		}
		p.Indexes = append(p.Indexes, fields)
	}
}

// readSample takes YAML, or a text of JSON.
func (p *ProjectionConfig) readSample(v any) {
	if text, ok := v.(string); ok {
		p.Sample = json.RawMessage(text)
		return
	}
	b, err := json.Marshal(v)
	if err != nil {
		p.bad("sample", "%w", err)
		return
	}
	p.Sample = b
}

// text reads an expression. YAML makes numbers and bools of some.
func (p *ProjectionConfig) text(key string, v any) string {
	switch v := v.(type) {
	case string:
		return strings.TrimRight(v, "\n")
	case bool, int, int64, uint64, float64:
		return fmt.Sprint(v)
	}
	p.bad(key, "an expression, as a text")
	return ""
}

func (p *ProjectionConfig) object(key string, v any) map[string]any {
	m, ok := v.(map[string]any)
	if !ok {
		p.bad(key, "a field and its expression on each line")
	}
	return m
}

func (p *ProjectionConfig) texts(key string, v any) map[string]string {
	out := map[string]string{}
	for name, v := range p.object(key, v) {
		out[name] = p.text(key+"."+name, v)
	}
	return out
}

// list reads one text or several.
func (p *ProjectionConfig) list(key string, v any) (texts []string) {
	switch v := v.(type) {
	case string:
		return []string{v}
	case []any:
		for _, one := range v {
			text, ok := one.(string)
			if !ok {
				p.bad(key, "a list of texts, not one with %v", one)
				return nil
			}
			texts = append(texts, text)
		}
		return texts
	}
	p.bad(key, "a text, or a list of them")
	return nil
}

// duration reads 90s, 1h and, beyond what Go reads, 1d.
func (p *ProjectionConfig) duration(key string, v any) time.Duration {
	text, _ := v.(string)
	if days, ok := strings.CutSuffix(text, "d"); ok {
		if n, err := strconv.ParseUint(days, 10, 12); err == nil && n > 0 {
			return time.Duration(n) * 24 * time.Hour
		}
	}
	d, err := time.ParseDuration(text)
	if err != nil || d <= 0 {
		p.bad(key, "a length of time such as 15m, 1h or 1d, not %v", v)
		return 0
	}
	return d
}

// declare checks the declaration called name.
func (p ProjectionConfig) declare(name string) (*projections.Declared, []problem) {
	if len(p.wrong) > 0 {
		return nil, p.wrong
	}
	d := p.Declaration
	d.Name = name
	declared, found := projections.Declare(d)
	var all []problem
	for _, f := range found {
		all = append(all, problem{f.Key, expressionError{f}})
	}
	return declared, all
}

// expressionError is a problem whose key is said beside it.
type expressionError struct{ projections.Problem }

func (e expressionError) Error() string { return strings.TrimPrefix(e.Problem.Error(), e.Key+": ") }

// projectionProblems checks what is declared.
func (c Config) projectionProblems() (all []problem) {
	for _, name := range sortedKeys(c.Projections) {
		_, found := c.Projections[name].declare(name)
		for _, p := range found {
			key := "projections." + name
			if p.key != "" {
				key += "." + p.key
			}
			all = append(all, problem{key, p.err})
		}
	}
	return all
}

// declared are the declared projections. Check has told what can't be one.
func (c Config) declared() (list []projections.Projection) {
	for _, name := range sortedKeys(c.Projections) {
		if d, found := c.Projections[name].declare(name); len(found) == 0 {
			list = append(list, d)
		}
	}
	return list
}

// names checks that no declared projection is called like one of the program's.
func (c Config) names(app App) error {
	var errs []error
	for _, p := range c.ofProgram(app) {
		if _, taken := c.Projections[p.Name()]; taken {
			errs = append(errs, fmt.Errorf("projections.%s: the program has a projection of this name; call yours something else", p.Name()))
		}
	}
	return errors.Join(errs...)
}

// at says where in the file a problem is: path:line:column for a place in an expression, as exactly as YAML lets one say
// it, and path:line for a key.
func (p problem) at(path string, content []byte, doc *yamlv3.Node) error {
	key := strings.Split(p.key, ".")
	line := lineOf(doc, key)
	if list, rest, ok := strings.Cut(key[len(key)-1], "["); ok { // of an entry of a list
		key[len(key)-1] = list
		i, err := strconv.Atoi(strings.TrimSuffix(rest, "]"))
		if n := nodeOf(doc, key); err == nil && n != nil && n.Kind == yamlv3.SequenceNode && i < len(n.Content) {
			line = n.Content[i].Line
		}
	}
	e, ok := errors.AsType[expressionError](p.err)
	if !ok || e.Line == 0 {
		if line == 0 {
			return fmt.Errorf("%s: %s: %w", path, p.key, p.err)
		}
		return fmt.Errorf("%s:%d: %s: %w", path, line, p.key, p.err)
	}
	n := nodeOf(doc, key)
	if n == nil || n.Kind != yamlv3.ScalarNode {
		return fmt.Errorf("%s:%d: %s: %w", path, line, p.key, p.err)
	}
	if row, column, ok := spotIn(n, content, e.Line, e.Column); ok {
		return fmt.Errorf("%s:%d:%d: %s: %w", path, row, column, p.key, e.Err)
	}
	return fmt.Errorf("%s:%d:%d: %s: %w", path, n.Line, n.Column, p.key, p.err)
}

// nodeOf is what stands at key, nil for nothing. An append of one expression stands where its value would.
func nodeOf(n *yamlv3.Node, key []string) *yamlv3.Node {
	for n.Kind == yamlv3.DocumentNode && len(n.Content) > 0 {
		n = n.Content[0]
	}
	for n.Kind == yamlv3.AliasNode {
		n = n.Alias
	}
	if len(key) == 0 || n.Kind == yamlv3.ScalarNode && len(key) == 1 && key[0] == "value" {
		return n
	}
	if n.Kind != yamlv3.MappingNode {
		return nil
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		if n.Content[i].Value == key[0] {
			return nodeOf(n.Content[i+1], key[1:])
		}
	}
	return nil
}

// spotIn turns a place in a scalar's text into one in the file. Of a folded text, or one with escapes, nobody can say.
func spotIn(n *yamlv3.Node, content []byte, line, column int) (row, col int, ok bool) {
	switch n.Style {
	case 0: // plain
		return n.Line, n.Column + column - 1, line == 1 && !strings.Contains(n.Value, "\n")
	case yamlv3.SingleQuotedStyle:
		return n.Line, n.Column + column, line == 1 && !strings.ContainsAny(n.Value, "'\n")
	case yamlv3.DoubleQuotedStyle:
		return n.Line, n.Column + column, line == 1 && !strings.ContainsAny(n.Value, "\"\\\n\t")
	case yamlv3.LiteralStyle:
		lines, texts := strings.Split(string(content), "\n"), strings.Split(n.Value, "\n")
		if row = n.Line + line; row > len(lines) || line > len(texts) {
			return 0, 0, false
		}
		indent := strings.Index(lines[row-1], texts[line-1])
		return row, indent + column, indent >= 0
	}
	return 0, 0, false
}

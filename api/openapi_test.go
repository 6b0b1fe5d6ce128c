package api

import (
	"encoding/json"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/danielgtaylor/huma/v2"
	"github.com/penstock-io/penstock/domain"
)

// TestOpenAPIIsSound checks what a generator of clients needs of the document.
func TestOpenAPIIsSound(t *testing.T) {
	n := newNode(t, false)
	r := n.get("/openapi.json").is(200)
	doc := r.fields()
	if doc["openapi"] != "3.1.0" || doc["info"].(map[string]any)["version"] != "test" {
		t.Errorf("%v, %v", doc["openapi"], doc["info"])
	}
	placeholder := regexp.MustCompile(`\{(\w+)\}`)
	ids, tags := map[string]string{}, map[string]bool{}
	for _, tag := range doc["tags"].([]any) {
		tags[tag.(map[string]any)["name"].(string)] = true
	}
	for path, methods := range doc["paths"].(map[string]any) {
		if strings.Contains(path, "...") {
			t.Errorf("%s is a ServeMux pattern", path)
		}
		for method, op := range methods.(map[string]any) {
			op := op.(map[string]any)
			name := method + " " + path
			id, _ := op["operationId"].(string)
			if ids[id] != "" || id == "" {
				t.Errorf("%s: operationId %q is that of %q too", name, id, ids[id])
			}
			ids[id] = name
			if op["summary"] == nil || len(op["tags"].([]any)) != 1 || !tags[op["tags"].([]any)[0].(string)] {
				t.Errorf("%s: no summary, or not one known tag: %v", name, op["tags"])
			}
			declared, seen := []string{}, map[string]bool{}
			params, _ := op["parameters"].([]any)
			for _, p := range params {
				p := p.(map[string]any)
				key := p["in"].(string) + " " + p["name"].(string)
				if seen[key] {
					t.Errorf("%s: %s is declared twice", name, key)
				}
				seen[key] = true
				if p["schema"] == nil {
					t.Errorf("%s: %s has no schema", name, key)
				}
				if p["in"] == "path" {
					declared = append(declared, p["name"].(string))
					if p["required"] != true {
						t.Errorf("%s: %s is not required", name, key)
					}
				}
			}
			var wanted []string
			for _, m := range placeholder.FindAllStringSubmatch(path, -1) {
				wanted = append(wanted, m[1])
			}
			slices.Sort(declared)
			slices.Sort(wanted)
			if !slices.Equal(declared, wanted) {
				t.Errorf("%s: parameters %v, placeholders %v", name, declared, wanted)
			}
			responses := op["responses"].(map[string]any)
			good := false
			for status, response := range responses {
				good = good || strings.HasPrefix(status, "2")
				if status == "409" && strings.Contains(response.(map[string]any)["description"].(string), "rejected") != strings.HasPrefix(path, "/v1/commands/") {
					t.Errorf("%s: 409 is described as %v", name, response)
				}
				if d, _ := response.(map[string]any)["description"].(string); d == "" {
					t.Errorf("%s: %s has no description", name, status)
				}
				content, _ := response.(map[string]any)["content"].(map[string]any)
				if status >= "400" && content["application/problem+json"] == nil {
					t.Errorf("%s: %s is no problem: %v", name, status, content)
				}
			}
			if !good {
				t.Errorf("%s has no good answer", name)
			}
		}
	}
	schemas := doc["components"].(map[string]any)["schemas"].(map[string]any)
	used := map[string]bool{}
	walk(doc, func(key string, v any) {
		if key == "$ref" {
			name, ok := strings.CutPrefix(v.(string), "#/components/schemas/")
			if _, found := schemas[name]; !ok || !found {
				t.Errorf("%v leads nowhere", v)
			}
			used[name] = true
		}
	})
	for name := range schemas {
		if !used[name] {
			t.Errorf("schema %s is not used", name)
		}
		if !regexp.MustCompile(`^[A-Za-z0-9._-]+$`).MatchString(name) {
			t.Errorf("%q can't be a schema's name", name)
		}
	}

	for _, want := range []string{
		"get /v1/events", "get /v1/events/{id}", "get /v1/streams", "get /v1/streams/{category}/{key}", "post /v1/commands/Add",
		"get /v1/commands/{id}", "get /v1/projections", "get /v1/projections/{name}", "get /v1/projections/{name}/rows",
		"get /v1/projections/{name}/rows/{key}", "get /v1/projections/{name}/changes", "get /v1/projections/{name}/backup",
		"post /v1/projections/{name}/rebuild", "post /v1/rebuilds", "delete /v1/projections/{name}/build", "post /v1/projections/{name}/rollback",
		"post /v1/projections/{name}/retry", "post /v1/projections/{name}/skip", "get /v1/deliveries",
		"get /v1/deliveries/{source}/{id}", "get /v1/deliveries/{source}/{id}/request", "post /v1/deliveries/{source}/{id}/replay", "get /v1/replays",
		"post /v1/replays", "get /v1/replays/{id}", "post /v1/replays/{id}/start", "post /v1/replays/{id}/cancel", "get /v1/parked", "get /v1/parked/{id}", "post /v1/parked/{id}/requeue",
		"post /v1/parked/{id}/discard", "post /v1/parked/requeue", "get /v1/sources", "get /v1/sources/{name}/handshake",
		"post /v1/sources/{name}/handshake", "post /v1/sources/reload", "get /hooks/{source}", "get /v1/status", "get /healthz", "get /readyz", "post /hooks/{source}",
	} {
		if !slices.Contains(slices.Collect(values(ids)), want) {
			t.Errorf("%s is missing", want)
		}
	}
	content := doc["paths"].(map[string]any)["/v1/events"].(map[string]any)["get"].(map[string]any)["responses"].(map[string]any)["200"].(map[string]any)["content"].(map[string]any)
	if content["application/json"] == nil || content["text/event-stream"] == nil {
		t.Errorf("/v1/events answers with %v", content)
	}
	body := schemas["Add1"].(map[string]any)
	if body["additionalProperties"] != false || body["properties"].(map[string]any)["counter"].(map[string]any)["description"] != "Which counter" {
		t.Errorf("the body of Add is %v", body)
	}
	if got := n.get("/openapi.yaml").is(200).body; !strings.HasPrefix(string(got), "components:") && !strings.Contains(string(got), "openapi: 3.1.0") {
		t.Errorf("yaml: %.100s", got)
	}
	n.get("/openapi.json", "If-None-Match: "+r.header.Get("ETag")).is(304)
}

func values(m map[string]string) func(func(string) bool) {
	return func(yield func(string) bool) {
		for _, v := range m {
			if !yield(v) {
				return
			}
		}
	}
}

func walk(v any, f func(key string, v any)) {
	switch v := v.(type) {
	case map[string]any:
		for key, inner := range v {
			f(key, inner)
			walk(inner, f)
		}
	case []any:
		for _, inner := range v {
			walk(inner, f)
		}
	}
}

// TestDocsNeedNobody checks that the page and all it loads come from here.
func TestDocsNeedNobody(t *testing.T) {
	n := newNode(t, false)
	page := n.get("/docs").is(200)
	links := regexp.MustCompile(`(?:src|href)="([^"]+)"`).FindAllSubmatch(page.body, -1)
	if len(links) < 3 {
		t.Fatalf("%s", page.body)
	}
	for _, m := range links {
		r := n.get(string(m[1])).is(200)
		if !strings.HasPrefix(r.header.Get("Content-Security-Policy"), "default-src 'none'; script-src 'self'") {
			t.Errorf("%s may load from %q", m[1], r.header.Get("Content-Security-Policy"))
		}
		if regexp.MustCompile(`https?://`).Match(r.body) && !strings.HasPrefix(string(m[1]), "/openapi") {
			t.Errorf("%s names another site", m[1])
		}
	}
	if strings.Contains(string(n.get("/docs/docs.js").body), "innerHTML") {
		t.Error("the page makes markup of text")
	}
}

// TestOpenAPIIsReadAtOnce guards against filling the document's cache without a lock, and takes what is added after
// Register.
func TestOpenAPIIsReadAtOnce(t *testing.T) {
	n := newNode(t, false)
	n.api.OpenAPI().AddOperation(&huma.Operation{OperationID: "late", Method: http.MethodGet, Path: "/late", Responses: map[string]*huma.Response{"200": {Description: "OK"}}})
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			if r := n.get("/openapi.json"); !strings.Contains(string(r.body), "/late") {
				t.Error("the late operation is missing")
			}
			n.get("/openapi.yaml").is(200)
		})
	}
	wg.Wait()
}

func TestRegisterChecks(t *testing.T) {
	type broken struct {
		Amount int `json:"amount" minimum:"many"`
	}
	n := newNode(t, false)
	for name, c := range map[string]domain.CommandType{
		"stands in a URL": domain.CommandOf("a/b", func(line) (domain.Stream, error) { return "", nil }),
		"the schema of":   domain.CommandOf("Broken", func(broken) (domain.Stream, error) { return "", nil }),
	} {
		cfg := n.cfg
		cfg.Types = domain.Types{Commands: []domain.CommandType{c}}
		if _, err := Register(http.NewServeMux(), cfg); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := Register(http.NewServeMux(), Config{}); err == nil || strings.Count(err.Error(), "\n") != 3 {
		t.Errorf("not all that is missing is told: %v", err)
	}
}

func TestSchemasOfOneName(t *testing.T) {
	type health struct {
		Own int `json:"own"`
	}
	n := newNode(t, false, func(c *Config) {
		c.Types = domain.Types{Commands: []domain.CommandType{domain.CommandOf("Health", func(health) (domain.Stream, error) { return "a/b", nil })}}
	})
	var doc struct {
		Components struct {
			Schemas map[string]json.RawMessage
		}
	}
	n.get("/openapi.json").is(200).into(&doc)
	a, b := string(doc.Components.Schemas["Health"]), string(doc.Components.Schemas["Health2"])
	if strings.Contains(a, "own") == strings.Contains(b, "own") || a == "" || b == "" {
		t.Errorf("%s and %s", a, b)
	}
}

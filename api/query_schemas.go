package api

import (
	"encoding/json"
	"net/http"
	"strconv"
	"strings"

	"github.com/danielgtaylor/huma/v2"
	"github.com/penstock-io/penstock/projections"
)

// documentRows adds the reads of each projection that says what its rows look like to the document, under their own
// URLs. They are served by the operations on any projection.
func (s *server) documentRows() {
	for _, v := range s.Engine.Views() {
		if schema := v.Schema(); schema.Type != "" {
			s.documentRowsOf(v, schema)
		}
	}
}

func (s *server) documentRowsOf(v *projections.View, schema projections.Schema) {
	doc := s.api.OpenAPI()
	row := &huma.Schema{Ref: "#/components/schemas/" + s.nameSchema(v.Name(), schema)}
	text := &huma.Schema{Type: huma.TypeString}
	list := &huma.Schema{Type: huma.TypeObject, Required: []string{"items"}, Properties: map[string]*huma.Schema{
		"items": {Type: huma.TypeArray, Items: &huma.Schema{Type: huma.TypeObject, Required: []string{"key", "row"},
			Properties: map[string]*huma.Schema{"key": text, "row": row}}},
		"next":    {Type: huma.TypeString, Description: "Cursor of the next page; absent on the last one"},
		"missing": {Type: huma.TypeArray, Items: text, Description: "Keys asked for that have no row"},
	}}
	_, local := v.StreamOf("")
	for _, read := range []struct {
		path, id string
		schema   *huma.Schema
	}{{"/rows", "list-" + v.Name() + "-rows", list}, {"/rows/{key}", "get-" + v.Name() + "-row", row}} {
		general := doc.Paths["/v1/projections/{name}"+read.path].Get
		op := *general
		op.OperationID, op.Path = read.id, "/v1/projections/"+v.Name()+read.path
		op.Summary, op.Parameters = general.Summary+": "+v.Name(), nil
		for _, p := range general.Parameters {
			switch p.Name {
			case "name":
				continue
			case "index":
				if p = indexParameter(p, v.Indexes()); p == nil {
					continue
				}
			case "eq":
				if len(v.Indexes()) == 0 {
					continue
				}
			case "at":
				if !local {
					continue
				}
			}
			op.Parameters = append(op.Parameters, p)
		}
		op.Responses = map[string]*huma.Response{}
		for status, r := range general.Responses {
			op.Responses[status] = r
		}
		ok := *general.Responses["200"]
		ok.Content = map[string]*huma.MediaType{}
		for kind, m := range general.Responses["200"].Content {
			ok.Content[kind] = m
		}
		ok.Content["application/json"] = &huma.MediaType{Schema: read.schema}
		op.Responses["200"] = &ok
		op.Method = http.MethodGet
		doc.AddOperation(&op)
	}
}

// indexParameter is the parameter for a projection with these indexes; nil for none.
func indexParameter(general *huma.Param, names []string) *huma.Param {
	if len(names) == 0 {
		return nil
	}
	p := *general
	p.Schema = &huma.Schema{Type: huma.TypeString}
	for _, name := range names {
		p.Schema.Enum = append(p.Schema.Enum, name)
	}
	p.Example = names[0]
	return &p
}

// nameSchema adds a row's schema to the components, and returns its name: that of stripe-revenue is StripeRevenueRow.
func (s *server) nameSchema(projection string, schema projections.Schema) string {
	name := ""
	for part := range strings.SplitSeq(projection, "-") {
		if part != "" {
			name += strings.ToUpper(part[:1]) + part[1:]
		}
	}
	name += "Row"
	schemas := s.api.OpenAPI().Components.Schemas.Map()
	unique := name
	for n := 2; schemas[unique] != nil; n++ {
		unique = name + strconv.Itoa(n)
	}
	var members map[string]any
	b, err := json.Marshal(schema)
	if err == nil {
		err = json.Unmarshal(b, &members)
	}
	if err != nil { // an example that isn't JSON
		members = map[string]any{"description": "The row, as the projection wrote it"}
		s.Logger.Warn("the schema of a projection's rows can't be written", "projection", projection, "error", err)
	}
	schemas[unique] = &huma.Schema{Extensions: members}
	return unique
}

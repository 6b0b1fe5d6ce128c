package penstock

import (
	_ "embed"

	yamlv3 "go.yaml.in/yaml/v3"
)

//go:embed development.yaml
var developmentYAML []byte

// developmentProjections are those of development.yaml: a text that users copy from, so it is read as theirs is. A
// mistake in it is found by Check.
func developmentProjections() map[string]ProjectionConfig {
	var file struct{ Projections map[string]map[string]any }
	if err := yamlv3.Unmarshal(developmentYAML, &file); err != nil {
		panic(err) // it is part of the program
	}
	all := map[string]ProjectionConfig{}
	for name, m := range file.Projections {
		var p ProjectionConfig
		p.read(m)
		all[name] = p
	}
	return all
}

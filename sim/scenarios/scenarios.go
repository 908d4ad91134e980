package scenarios

import (
	"embed"
	"strings"
)

//go:embed *.yaml
var files embed.FS

// Names gives the names of all scenarios, sorted: their file names without
// ".yaml".
func Names() []string {
	entries, err := files.ReadDir(".")
	if err != nil {
		return nil // cannot be: the folder is embedded
	}
	names := make([]string, 0, len(entries))
	for _, e := range entries {
		names = append(names, strings.TrimSuffix(e.Name(), ".yaml"))
	}
	return names
}

// Get gives the text of a scenario by its name, with or without ".yaml".
func Get(name string) (data []byte, ok bool) {
	data, err := files.ReadFile(strings.TrimSuffix(name, ".yaml") + ".yaml")
	return data, err == nil
}

// Description gives the first comment line of a scenario's text, "" when it
// does not begin with one.
func Description(data []byte) string {
	first, _, _ := strings.Cut(string(data), "\n")
	if text, ok := strings.CutPrefix(first, "#"); ok {
		return strings.TrimSpace(text)
	}
	return ""
}

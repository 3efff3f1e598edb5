package config

import (
	"encoding/json"
	"fmt"
	"io"

	"gopkg.in/yaml.v3"
)

// WriteYAML writes c as a file that Load reads back.
func (c Config) WriteYAML(w io.Writer) error {
	enc := yaml.NewEncoder(w)
	enc.SetIndent(2)
	if err := enc.Encode(c); err != nil {
		return fmt.Errorf("print settings: %w", err)
	}
	return enc.Close()
}

// WriteJSON writes c as one object, with the values spelled as in YAML.
func (c Config) WriteJSON(w io.Writer) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	type spelled Config
	err := enc.Encode(struct {
		spelled
		DrainDeadline string `json:"drain-deadline"` // a number of nanoseconds otherwise
	}{spelled(c), c.DrainDeadline.String()})
	if err != nil {
		return fmt.Errorf("print settings: %w", err)
	}
	return nil
}

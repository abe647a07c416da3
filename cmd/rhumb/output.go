package main

import (
	"encoding/json"
	"fmt"

	"github.com/spf13/cobra"
)

// checkOutput refuses an output format that does not exist.
func checkOutput(cmd *cobra.Command) error {
	if f := cmd.Flag("output").Value.String(); f != "text" && f != "json" {
		return fmt.Errorf("output format %q: use text or json", f)
	}
	return nil
}

// show writes v as the -o flag says: its text, or the value as JSON.
func show(cmd *cobra.Command, v fmt.Stringer) error {
	if cmd.Flag("output").Value.String() == "json" {
		return json.NewEncoder(cmd.OutOrStdout()).Encode(v)
	}
	_, err := fmt.Fprintln(cmd.OutOrStdout(), v)
	return err
}

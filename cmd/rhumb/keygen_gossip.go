package main

import (
	"crypto/rand"
	"encoding/base64"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/rhumb-lb/rhumb/gossip"
	"github.com/rhumb-lb/rhumb/gossip/fleet"
)

func keygenGossip() *cobra.Command {
	var file string
	cmd := &cobra.Command{
		Use:   "gossip",
		Short: "Make the key that all members of a fleet share for their gossip",
		Long: `Make the key that all members of a fleet share for their gossip
(gossip.key_file): 32 random bytes as one line of base64.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := saveSecret(file, gossip.KeySize); err != nil {
				return err
			}
			return show(cmd, gossipKey{file})
		},
	}
	cmd.Flags().StringVar(&file, "out", "gossip.key", "`file` to write")
	return cmd
}

// gossipKey is what was made.
type gossipKey struct {
	File string `json:"key_file"`
}

// String is what a person needs to know of it.
func (k gossipKey) String() string {
	return fmt.Sprintf("key  %s\nGive the same file to all members.", k.File)
}

// saveSecret writes random bytes to a new file, as one line of base64.
func saveSecret(file string, size int) error {
	secret := make([]byte, size)
	_, _ = rand.Read(secret) // never fails
	if err := fleet.WriteNew(file, []byte(base64.StdEncoding.EncodeToString(secret)+"\n")); err != nil {
		return badInput{err}
	}
	return nil
}

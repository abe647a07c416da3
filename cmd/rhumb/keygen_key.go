package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/rhumb-lb/rhumb/cmd/internal/config"
	"github.com/rhumb-lb/rhumb/cmd/internal/config/keysfile"
	"github.com/rhumb-lb/rhumb/regions"
	"github.com/rhumb-lb/rhumb/regions/gateway/keyring"
)

func keygenKey() *cobra.Command {
	var k keyring.Key
	var pepperFile, keysFile, priority string
	var models []string
	cmd := &cobra.Command{
		Use:   "key ID",
		Short: "Make an API key of a gateway: a token for who holds it, an entry for the keys file",
		Long: `Make an API key of a gateway: the token, which is printed once and kept nowhere,
and the entry for the keys file (agent.auth.keys_file), which holds its hash. With
--keys the entry is added to the file, which is made if it is not there; a gateway
that runs takes it over by itself. ID names the key in logs and metrics.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			k.ID = args[0]
			var ok bool
			if k.Class, ok = regions.ParseClass(priority); !ok {
				return badInput{fmt.Errorf("--priority %s: want high, normal or low", priority)}
			}
			for _, m := range models {
				k.Models = append(k.Models, regions.ModelName(m))
			}
			key, err := makeKey(k, pepperFile, keysFile)
			if err != nil {
				return badInput{err}
			}
			return show(cmd, key)
		},
	}
	cmd.Flags().StringVar(&pepperFile, "pepper", "pepper", "`file` that rhumb keygen pepper made")
	cmd.Flags().StringVar(&keysFile, "keys", "", "keys `file` to add the entry to")
	cmd.Flags().StringArrayVar(&models, "model", nil, "a `model` that the key is for; can be repeated; all without it")
	cmd.Flags().Float64Var(&k.Rate, "rate", 0, "how many `requests` a second it may send in the long run; 0 is no limit")
	cmd.Flags().IntVar(&k.Burst, "burst", 0, "how many `requests` it may send at once; 0 is a second's worth")
	cmd.Flags().StringVar(&priority, "priority", regions.ClassNormal.String(), "the highest `class` that its requests may have, and have by themselves: high, normal or low")
	return cmd
}

// apiKey is what was made.
type apiKey struct {
	ID    string `json:"id"`
	Token string `json:"token"`
	Entry string `json:"entry"`               // for the keys file
	File  string `json:"keys_file,omitempty"` // it was added to
}

// makeKey makes a key and adds it to the keys file, if one is named.
func makeKey(k keyring.Key, pepperFile, keysFile string) (apiKey, error) {
	pepper, err := config.ReadPepper(pepperFile)
	if err != nil {
		return apiKey{}, fmt.Errorf("--pepper: %w; make one with rhumb keygen pepper", err)
	}
	token, k, err := keyring.Make(pepper, k)
	if err == nil && keysFile != "" {
		err = keysfile.Append(keysFile, k)
	}
	return apiKey{ID: k.ID, Token: token, Entry: keysfile.Entry(k), File: keysFile}, err
}

// String is what a person needs to know of it.
func (k apiKey) String() string {
	text := fmt.Sprintf("token  %s\nGive it to who holds the key. It is kept nowhere and can't be printed again.\n", k.Token)
	if k.File != "" {
		return text + "added to " + k.File
	}
	return text + "Add to the list \"keys\" of the keys file:\n\n" + k.Entry
}

"""What is asked of providers over the network: live offers and newer price catalogs. Nothing here spends money."""

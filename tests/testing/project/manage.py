import os
import sys

from django.core.management import execute_from_command_line

os.environ["DJANGO_SETTINGS_MODULE"] = "shop.settings"
if __name__ == "__main__":  # processes that are not forked import it again
    execute_from_command_line(sys.argv)

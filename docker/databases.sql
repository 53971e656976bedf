-- run once by the entry point of the database image, as the user that it made
CREATE DATABASE prefect;
CREATE DATABASE mlflow;
